"""Estimates of memory: remembered without torch, and a build that does not fit is refused with what would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etude import estimates
from etude.core.errors import InputError
from etude.core.method import load_method
from etude.core.params import load, pick
from etude.grids.settings import AxisSettings
from etude.memory import build, drawing
from etude.memory.footprint import Footprint, Setup, UncountedError
from etude.project import Project
from tests.shipped import ROOT, copy_project, replace_in

GB = 1_000_000_000


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that computes in bf16, and counts that depend on two switches."""
    monkeypatch.chdir(copy_project(tmp_path / "project"))
    replace_in(Path("params.yaml"), "precision: fp32", "precision: bf16")
    replace_in(Path("params.yaml"), "base: models/miniature", "base: models/sdxl")

    def count(method: Any, name: str, params: Any, setup: Setup) -> Footprint:
        if name == "model_merge":
            raise UncountedError(name, "it computes no gradients")
        half = params.base_precision == "bf16"
        return Footprint(weights=(5 if half else 10) * GB, activations=(1 if params.recompute else 10) * GB)

    monkeypatch.setattr(build, "count_build", count)
    return Path()


def test_a_build_that_does_not_fit_is_refused_with_its_parts_and_the_switches_that_make_it_fit(project: Path) -> None:
    estimates.refuse_too_large("lora", 24 * GB)
    with pytest.raises(InputError) as caught:
        estimates.refuse_too_large("lora", 8 * GB)
    message = str(caught.value)
    assert "needs 20.0 GB at once (weights 10.0, activations 10.0), and the device has 8.0. Next: write" in message
    assert "`recompute: true` (" in message
    assert "`base_precision: bf16` (" in message
    assert message.endswith("then it needs 6.0 GB.")
    assert "batch_size" not in message


def test_one_that_never_fits_is_told_so_and_one_that_is_not_counted_passes(project: Path) -> None:
    with pytest.raises(InputError, match="Next: use a larger device, smaller resolutions in `prepare`, or a method"):
        estimates.refuse_too_large("lora", 3 * GB)
    estimates.refuse_too_large("model_merge", GB)


def test_switches_that_make_a_build_no_smaller_are_not_among_those_that_are_named(project: Path) -> None:
    params: Any = load("pipelines/lora/params.yaml", load_method("lora").Params)
    setup = estimates.setup_of(pick("params.yaml", estimates.Shared), params)
    for room, fits in ((3 * GB, False), (7 * GB, True)):
        chosen, then = estimates.changes_that_fit("lora", params, setup, room)
        assert [next(iter(switch.change)) for switch in chosen] == ["recompute", "base_precision"]
        assert (then is not None) == fits


@pytest.mark.parametrize(
    ("room", "text", "action"),
    [(0, "20.0 GB", ""), (24 * GB, "20.0 GB, fits", ""), (12 * GB, "20.0 GB, does not fit", "write `recompute: true`")],
)
def test_a_plan_tells_what_was_counted_and_whether_it_fits(project: Path, room: int, text: str, action: str) -> None:
    assert estimates.told("lora:build", 0) == (estimates.UNCOUNTED, "")  # nothing is counted without a GPU
    params: Any = load("pipelines/lora/params.yaml", load_method("lora").Params)
    estimates.counted("lora", params, estimates.setup_of(pick("params.yaml", estimates.Shared), params))
    told, does = estimates.told("lora:build", room)
    assert told == text.replace(" GB", " GB, dry", 1)  # the project's base is not in this copy
    assert does.startswith(action)
    assert bool(does) == bool(action)


def test_stages_that_draw_need_what_their_pictures_at_once_need(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def count(setup: Setup, pictures: int) -> Footprint:
        asked.append((setup.family, pictures))
        return Footprint(weights=7 * GB, activations=pictures * GB)

    monkeypatch.setattr(drawing, "count_drawing", count)
    seeds = len(load("params.yaml", Project).evaluate.seeds)
    batch: Any = load("pipelines/dreambooth/params.yaml", load_method("dreambooth").Params)
    assert estimates.told("lora:evaluate", 24 * GB) == (f"{7 + seeds}.0 GB, dry, fits", "")
    told, action = estimates.told("dreambooth:class_images@drawn", 7 * GB)
    assert (told.partition(",")[2], action) == (" dry, does not fit", "lower `class_images.batch_size`")
    estimates.told("lora:grid", 24 * GB)
    assert set(asked) == {("sdxl", seeds), ("sdxl", batch.class_images.batch_size)}  # the grid's seeds are four, too
    assert estimates.told("lora:export", GB) == estimates.told("prepare@concept", GB) == ("", "")
    assert estimates.told("lora:class_images", GB) == ("", "")  # as it is shipped, none are drawn


def test_a_grid_draws_at_once_what_differs_by_the_seed_alone(project: Path) -> None:
    params: Any = load("pipelines/lora/params.yaml", load_method("lora").Params)
    shared = load("params.yaml", Project)
    by_seed, by_prompt = AxisSettings(axis="seed", values="0-6"), AxisSettings(axis="prompt", values="0, 1")
    for axes, pictures in (({"z": by_seed}, 7), ({"x": by_seed}, 7), ({"z": by_prompt}, 1)):
        grid = shared.grid.model_copy(update={"x": by_prompt, "y": by_prompt, "z": None} | axes)
        assert estimates.at_once(params, shared.evaluate, grid) == {"evaluate": 4, "grid": pictures}


def test_class_images_are_drawn_where_they_have_a_weight_alone(project: Path) -> None:
    params: Any = load("pipelines/dreambooth/params.yaml", load_method("dreambooth").Params)
    shared = load("params.yaml", Project)
    assert "class_images" in estimates.at_once(params, shared.evaluate, shared.grid)
    without = params.model_copy(update={"prior_weight": 0.0})
    assert "class_images" not in estimates.at_once(without, shared.evaluate, shared.grid)


def test_a_build_is_counted_for_the_largest_of_its_resolutions(project: Path) -> None:
    params: Any = load("pipelines/lora/params.yaml", load_method("lora").Params)
    shared = pick("params.yaml", estimates.Shared)
    several = shared.prepare.model_copy(update={"resolution": 512, "further_resolutions": [768, 256]})
    setup = estimates.setup_of(shared.model_copy(update={"prepare": several}), params)
    assert setup.resolution == 768


def test_a_count_is_remembered_for_its_parameters_base_and_code_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params: Any = load("pipelines/lora/params.yaml", load_method("lora").Params)
    setup = estimates.setup_of(pick("params.yaml", estimates.Shared), params)
    monkeypatch.setattr(drawing, "count_drawing", lambda *_: Footprint(weights=GB))
    estimates.counted("lora", params, setup)
    estimates.counted_drawing(setup, 4)
    assert estimates.recalled("lora", params, setup)
    assert estimates.recalled_drawing(setup, 4)
    for field, value in {"precision": "fp32", "base": Path("models/other"), "family": "sd1"}.items():
        assert estimates.recalled("lora", params, replace(setup, **{field: value})) is None
        assert estimates.recalled_drawing(replace(setup, **{field: value}), 4) is None
    assert estimates.recalled("lora", params, replace(setup, resolution=512)) is None
    assert estimates.recalled("lora", params.model_copy(update={"rank": 3}), setup) is None
    assert estimates.recalled_drawing(setup, 5) is None
    for function in ("_digest", "versions"):
        with monkeypatch.context() as patch:
            patch.setattr(estimates, function, lambda *_: "other")
            assert estimates.recalled("lora", params, setup) is estimates.recalled_drawing(setup, 4) is None
    Path("models/sdxl").mkdir(parents=True)
    Path("models/sdxl/config.json").write_text("{}")
    assert estimates.recalled("lora", params, setup) is None


@pytest.mark.parametrize(("room", "fits"), [(7_500_000_000, True), (7_499_999_999, False)])
def test_half_a_gigabyte_is_left_for_cuda_itself(room: int, fits: bool) -> None:
    assert estimates.fits(Footprint(weights=4 * GB, activations=3 * GB), room) is fits


def test_what_is_remembered_is_told_without_torch(project: Path) -> None:
    params: Any = load("pipelines/lora/params.yaml", load_method("lora").Params)
    estimates.counted("lora", params, estimates.setup_of(pick("params.yaml", estimates.Shared), params))
    code = "import sys; from etude import estimates; print(*estimates.told('lora:build', 0), 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["20.0", "GB,", "dry", "False"], done.stderr


def test_a_base_that_nothing_knows_is_told_as_missing(project: Path) -> None:
    replace_in(Path("params.yaml"), "base: models/sdxl", "base: models/unknown")
    assert estimates.told("lora:build", 24 * GB) == ("no base", "")
