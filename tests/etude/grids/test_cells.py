from __future__ import annotations

from pathlib import Path

import pytest

from etude.base.settings import Sampling
from etude.core.errors import ParamsError
from etude.grids.axes import Axis, Choices, read_axis
from etude.grids.cells import Cell, Defaults, cells, gather
from etude.grids.settings import AxisSettings
from etude.rendering.candidates import UNTOUCHED, Candidate
from tests.finished import SAMPLING

SUBJECTS = {
    "base": UNTOUCHED,
    "000100": Candidate("000100", 100, Path("100")),
    "000200": Candidate("000200", 200, Path("200")),
    "000300": Candidate("000300", 300, Path("300"), final=True),
}
CHOICES = Choices(SUBJECTS, "000200", ["[name]", "a red [name]"])
DEFAULTS = Defaults("sks", 7, Sampling.model_validate(SAMPLING), {"strength": 1.0})


def axis(name: str, values: str | int | float) -> Axis:
    made = read_axis(AxisSettings(axis=name, values=values), CHOICES)
    assert made
    return made


def one(x: Axis | None = None, y: Axis | None = None, z: Axis | None = None) -> list[Cell]:
    return cells([x, y, z], CHOICES, DEFAULTS)


def test_all_checkpoints_begin_with_the_untouched_base() -> None:
    assert axis("checkpoint", "all").values == ("base", "000100", "000200", "000300")
    assert axis("checkpoint", "all").labels == ("untouched base", "step 100", "step 200, best", "step 300")


def test_checkpoints_are_named_by_step_or_by_what_they_are() -> None:
    assert axis("checkpoint", "base, 100-300 (+200), best").values == ("base", "000100", "000300", "000200")
    assert axis("checkpoint", "final").values == ("000300",)
    assert axis("checkpoint", 100).values == ("000100",)


def test_a_checkpoint_that_was_not_saved_is_refused() -> None:
    with pytest.raises(ParamsError, match="saved: 100, 200, 300"):
        axis("checkpoint", "150")


def test_labels_say_what_is_turned_and_sizes_are_read() -> None:
    assert axis("guidance", "1-5 (+2)").labels == ("guidance 1.0", "guidance 3.0", "guidance 5.0")
    assert axis("strength", "0-1 [3]").labels == ("strength 0.0", "strength 0.5", "strength 1.0")
    assert axis("sampler", "ddim, euler").labels == ("ddim", "euler")
    assert axis("size", "64x96").labels == ("64 × 96",)


def test_cells_run_over_columns_then_rows_then_blocks() -> None:
    made = one(axis("checkpoint", "base, 100"), axis("prompt", "all"), axis("seed", "0-1"))
    assert [cell.position for cell in made[:5]] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)]
    assert made[3].request.candidate.step == 100
    assert made[3].request.prompt == "a red sks"
    assert [cell.seed for cell in made] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_what_no_axis_turns_is_the_best_checkpoint_the_first_prompt_and_the_grids_seed() -> None:
    (cell,) = one()
    assert cell.request.candidate.step == 200
    assert (cell.request.prompt, cell.seed) == ("sks", 7)
    assert cell.request.settings == (("strength", 1.0),)


def test_axes_reach_sampling_size_and_the_methods_own_settings() -> None:
    (cell,) = one(axis("steps", 9), axis("size", "64x96"), axis("strength", "0.5"))
    assert cell.request.sampling.steps == 9
    assert cell.request.size == (64, 96)
    assert cell.request.settings == (("strength", 0.5),)


def test_search_and_replace_begins_with_words_of_the_prompt() -> None:
    made = one(axis("replace", "red, blue, shiny green"), axis("prompt", "a red [name]"))
    assert [cell.request.prompt for cell in made] == ["a red sks", "a blue sks", "a shiny green sks"]
    assert {cell.request.sampling.negative for cell in made} == {""}
    with pytest.raises(ParamsError, match="`yellow` is not in the prompt"):
        one(axis("replace", "yellow, blue"))


def test_search_and_replace_also_changes_the_negative_prompt() -> None:
    sampling = DEFAULTS.sampling.model_copy(update={"negative": "a blurred sks"})
    own = Defaults("sks", 7, sampling, {})
    made = cells([axis("replace", "blurred, plain"), None, None], CHOICES, own)
    assert [cell.request.sampling.negative for cell in made] == ["a blurred sks", "a plain sks"]
    assert {cell.request.prompt for cell in made} == {"sks"}


def test_the_base_is_drawn_once_for_all_strengths() -> None:
    made = one(axis("checkpoint", "base, 100"), axis("strength", "0-1"))
    assert len({cell.request for cell in made}) == 3


def test_seeds_of_one_prompt_are_asked_for_together_as_an_evaluation_asks() -> None:
    made = one(axis("checkpoint", "base, 100"), axis("prompt", "all"), axis("seed", "1, 0"))
    requests = gather(made)
    assert len(requests) == 8
    assert len(set(requests)) == 4
    assert {request.seeds for request in requests} == {(0, 1)}


def test_a_cell_has_the_position_of_its_axis_where_others_are_left_out() -> None:
    assert [cell.position for cell in one(None, axis("seed", "1-2"))] == [(0, 0, 0), (0, 1, 0)]
    assert [cell.position for cell in one(None, None, axis("seed", "1-2"))] == [(0, 0, 0), (0, 0, 1)]


def test_equal_values_make_one_cell_and_labels_of_long_numbers_are_rounded() -> None:
    assert axis("seed", "1-3, 2").values == (1, 2, 3)
    assert axis("strength", "0-1 [4]").labels[1] == "strength 0.33333333"
    assert axis("seed", "123456789").labels == ("seed 123456789",)


def test_a_build_without_steps_has_its_one_artifact_by_its_name() -> None:
    only = {"base": UNTOUCHED, "final": Candidate("final", None, Path("final"), final=True)}
    made = read_axis(AxisSettings(axis="checkpoint", values="all"), Choices(only, "base", ["[name]"]))
    assert made
    assert made.labels == ("untouched base, best", "final")
