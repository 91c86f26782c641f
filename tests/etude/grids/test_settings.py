from __future__ import annotations

from typing import Any

import pytest

from etude.core.errors import ParamsError
from etude.core.params import validate
from etude.grids.settings import AxisSettings, Grid, checkpoint_steps, refuse_unknown
from tests.finished import GRID


def read(**changes: Any) -> Grid:
    return validate({**GRID, **changes}, Grid, "params.yaml")


def test_an_axis_can_be_left_out() -> None:
    assert read(z=None).z is None


def test_values_that_cannot_be_read_are_found_with_the_other_parameters() -> None:
    with pytest.raises(ParamsError, match=r"z.*never reaches its end.*limit"):
        read(z={"axis": "seed", "values": "5-1"}, limit=0)


def test_one_axis_twice_is_refused() -> None:
    with pytest.raises(ParamsError, match="`prompt` is used twice"):
        read(x={"axis": "prompt", "values": "all"})


def test_an_axis_that_no_method_knows_is_named_with_the_nearest_known_one() -> None:
    grid = read(x={"axis": "strenght", "values": "0-1"})
    with pytest.raises(ValueError, match="did you mean `strength`"):
        refuse_unknown(grid, ("strength",))
    refuse_unknown(read(x={"axis": "strength", "values": "0-1"}), ("strength",))


def test_a_misspelt_axis_of_texts_is_answered_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match="`promt` is no axis of texts, did you mean `prompt`"):
        validate({"axis": "promt", "values": "all"}, AxisSettings, "params.yaml")


@pytest.mark.parametrize(
    ("axis", "inside", "outside"),
    [
        ("seed", f"0, {2**59}", "-1"),
        ("steps", "1, 500", "0"),
        ("steps", "1", "501"),
        ("guidance", "0, 100", "-0.1"),
        ("guidance", "0", "100.1"),
        ("strength", "-1000000, 1000000", "-1000001"),
        ("strength", "0", "1000001"),
        ("checkpoint", "1", "0"),
        ("replace", "a, b", "a"),
        ("size", "32x4096", "24x64"),
    ],
)
def test_the_ends_of_a_range_are_in_it(axis: str, inside: str, outside: str) -> None:
    assert AxisSettings(axis=axis, values=inside).values == inside
    with pytest.raises(ParamsError, match="params.yaml: "):
        validate({"axis": axis, "values": outside}, AxisSettings, "params.yaml")


def test_all_checkpoints_are_one_word_and_names_and_steps_can_be_mixed() -> None:
    assert checkpoint_steps(["base", "100", "best", "200-300 (+50)", "final"]) == [100, 200, 250, 300]
    with pytest.raises(ValueError, match="`all` means every checkpoint: write it alone"):
        checkpoint_steps(["all"])


def test_an_axis_of_every_method_is_known_without_a_method() -> None:
    for name, values in {"seed": "1", "steps": "1", "guidance": "1", "sampler": "ddim", "size": "64x64"}.items():
        refuse_unknown(read(x={"axis": name, "values": values}, y=None, z=None), ())
