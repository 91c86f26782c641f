from __future__ import annotations

from typing import Any

import pytest

from etude.core.errors import ParamsError
from etude.core.params import validate
from etude.grids.settings import AxisSettings, Grid, refuse_unknown
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
