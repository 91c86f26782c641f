"""The table of settings that exclude each other: every row refuses a run, and every preset keeps to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commands.preset import apply_preset
from commands.rewriting import rewrite
from etude.core.errors import ParamsError
from etude.core.method import load_method, method_names
from etude.core.params import MethodParams, read_yaml, validate
from etude.project import check
from etude.training.exclusions import GROUPS, TABLE, Exclusion, Setting, exclusions
from etude.training.plan import Trained
from tests.shipped import PARAMS, ROOT, held

MEANT: dict[str, Any] = {  # a value of each key that some row means
    "gradient_release": True, "trained_precision": "bf16", "base_precision": "fp32", "processes": 2, "device": "mps",
    "training.clip": 1.0, "training.accumulation": 2, "training.ema": 0.9, "training.schedule": "cosine",
    **dict.fromkeys(GROUPS, 0.5),
}  # fmt: skip
FINE = {  # a run of a method to which no row applies
    "trained_precision": "fp32", "gradient_release": False, "training.clip": 0.0, "training.accumulation": 1,
    "training.ema": 0.0, "training.schedule": "constant", "training.learning_rate": 1.0, "training.warmup_steps": 0,
    "text_encoder_rate": 0.0, "word_rate": 1.0, "negative_rate": 1.0, "plus": 1.0,
}  # fmt: skip


def params_with(method: str, values: dict[str, Any]) -> MethodParams:
    """The shipped params of a method with these dotted keys changed, where it has them."""
    content = read_yaml(held(f"pipelines/{method}/params.yaml"))
    for key, value in values.items():
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        if last in block:
            block[last] = value
    return validate(content, load_method(method).Params, "params.yaml")


def method_with(*settings: Setting) -> str:
    """A method that has the keys of these settings that are no keys of the project."""
    shared = read_yaml(held("params.yaml"))
    keys = [setting.key.partition(".")[0] for setting in settings if setting.key not in shared]
    for name in method_names():
        content = read_yaml(held(f"pipelines/{name}/params.yaml"))
        if "training" in content and all(key in content for key in keys):
            return name
    raise AssertionError(keys)


def meant(setting: Setting) -> Any:
    """A value that the setting means: the one of its words, or an example."""
    found = [MEANT.get(setting.key), setting.words, "0.001:5, 0.0005", 0.0001]
    return next(value for value in found if value is not None and _holds(setting, value))


def _holds(setting: Setting, value: Any) -> bool:
    try:
        return setting.is_meant(value)
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.first.key}-{row.second.key}")
def test_every_row_refuses_its_two_settings_and_neither_alone(row: Exclusion) -> None:
    method = method_with(row.first, row.second)
    own = {setting.key: meant(setting) for setting in (row.first, row.second)}
    shared = {"processes": 1, "precision": "bf16", "device": "cpu"}
    for chosen in ((row.first,), (row.second,), (row.first, row.second)):
        values = FINE | {"base_precision": "bf16"} | {setting.key: own[setting.key] for setting in chosen}
        project = check(PARAMS).model_copy(
            update=shared | {key: value for key, value in values.items() if key in shared}
        )
        said = ""
        try:
            params = params_with(method, values)
            assert isinstance(params, Trained)
            said = " ".join(f"{fault}. {action}" for fault, action in params.excluded(project))
        except ParamsError as error:
            said = str(error)
        assert (row.reason in said) == (len(chosen) == 2), said
        if len(chosen) == 2:
            assert f"`{row.second.key}: {row.second.instead}` or `{row.first.key}: {row.first.instead}`" in said


def test_a_value_that_a_row_advises_is_not_one_that_it_means() -> None:
    for setting in (setting for row in TABLE for setting in (row.first, row.second)):
        advised = {"true": True, "false": False, "a number": 1.0}.get(setting.instead, setting.instead)
        if isinstance(advised, str) and advised.replace(".", "").isdigit():
            advised = float(advised)
        assert not setting.is_meant(advised), setting


def test_the_project_and_a_method_together_are_refused_by_check(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PARAMS, tmp_path / "project"))
    rewrite(folder / "params.yaml", "params.yaml", {"processes": 2, "methods": ["fine_tuning"]})
    values = {"gradient_release": True, "training.clip": 0.0}
    rewrite(folder / "pipelines/fine_tuning/params.yaml", "params.yaml", values)
    fault = "`gradient_release: true` and `processes: 2` exclude each other: .* Next: write `processes: 1` or"
    with pytest.raises(ParamsError, match=fault):
        check(folder)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_of_every_method_keeps_to_the_table(tmp_path: Path, preset: str) -> None:
    folder = Path(shutil.copytree(PARAMS, tmp_path / "project"))
    apply_preset(preset, folder)
    check(folder, method_names())


@pytest.mark.parametrize(
    ("rate", "refused"), [(0.1, False), (1.0, False), (0.09, True), ("0.1", False), ("0.05:9, 1", True)]
)
def test_the_rate_that_prodigy_finds_is_not_multiplied_by_less_than_a_tenth(rate: float | str, refused: bool) -> None:
    run = SimpleNamespace(training=SimpleNamespace(optimizer=SimpleNamespace(kind="prodigy"), learning_rate=rate))
    assert bool(list(exclusions(run))) is refused


@pytest.mark.parametrize(("rate", "refused"), [(0.0, False), (1.0, False), (0.5, True), (2.0, True)])
def test_prodigy_finds_one_rate_for_all_groups_but_a_group_may_be_off(rate: float, refused: bool) -> None:
    training = SimpleNamespace(optimizer=SimpleNamespace(kind="prodigy"), learning_rate=1.0)
    assert bool(list(exclusions(SimpleNamespace(training=training, text_encoder_rate=rate)))) is refused


def test_a_key_is_that_of_the_first_block_that_has_it() -> None:
    rounded = SimpleNamespace(trained_precision="bf16", base_precision="bf16")
    assert list(exclusions(rounded, SimpleNamespace(base_precision="fp32"))) == []
    assert list(exclusions(SimpleNamespace(base_precision="fp32"), rounded)) == [
        (
            "`trained_precision: bf16` and `base_precision: fp32` exclude each other: "
            "trained weights in bf16 need the whole base in bf16",
            "write `base_precision: bf16` or `trained_precision: fp32`",
        )
    ]
