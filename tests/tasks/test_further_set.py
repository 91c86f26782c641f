"""Several image sets that a method learns from at once, each with how often its pictures count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core import artifact as artifacts
from etude.core.errors import InputError, ParamsError, StaleError
from etude.core.files import read_json, write_json
from etude.core.method import load_method, method_names
from etude.training.inputs import Request, load_inputs
from etude.training.sets import FurtherSets
from tasks.build import build
from tasks.further_set import further_set
from tests.pipelines.learning import params_of
from tests.tasks.learning import change, make_project, write_data

METHODS = [name for name in method_names() if issubclass(load_method(name).Params, FurtherSets)]
RECORD = Path("artifacts/lora/sources/studio.json")
BOTH: dict[str, Any] = {"repeats": 10, "further_sets": {"studio": 1}}


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA of two image sets."""
    make_project(tmp_path, tiny_base, "lora", **BOTH)
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data/studio")
    return tmp_path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("project")
def test_each_method_gets_the_pictures_and_captions_of_all_sets_with_their_repeats(method: str) -> None:
    write_json(Path("data/studio/latents/repeats.json"), {"b": 3})
    params = params_of(method, set="concept", **BOTH)
    asking: Any = SimpleNamespace(build=lambda *, base, images, captions, params, report: None)
    data = load_inputs(asking, Request(method, params, {}))
    images = data["images"]
    assert images.names == ("a", "b", "c", "studio/a", "studio/b", "studio/c")
    assert list(images.repeats) == [10, 10, 10, 1, 3, 1]
    assert set(params.image_sets()) >= {"concept", "studio"}
    if data["captions"]:
        assert data["captions"].texts["studio/b"] == "flat otter"
        assert set(data["captions"].texts) == set(images.names)


def test_a_build_depends_on_what_the_further_sets_hold(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"sources/studio.json: is missing. Next: .*further_set@studio"):
        build("lora")
    RECORD.with_name("former.json").write_text("{}")
    further_set("lora", "studio")
    assert "lora: learns from studio, too" in capsys.readouterr().out
    assert not RECORD.with_name("former.json").exists()
    record = read_json(RECORD)
    assert list(record) == ["data/studio/latents", "data/studio/texts"]
    build("lora")
    facts = artifacts.load(project / "artifacts/lora/build/artifact.safetensors").facts
    assert facts["images"] == 6
    assert record.items() <= facts["inputs"].items()
    (project / "data/studio/latents/shards.json").write_text("{}")
    with pytest.raises(StaleError, match="data/studio/latents: has changed since the stage further_set read it"):
        build("lora")


@pytest.mark.usefixtures("project")
def test_a_set_that_is_not_named_is_no_further_set() -> None:
    change(Path("pipelines/lora/params.yaml"), repeats=1, further_sets={})
    with pytest.raises(StaleError, match="no stage `further_set@studio`"):
        further_set("lora", "studio")


@pytest.mark.usefixtures("project")
def test_a_build_forgets_the_last_set_that_it_had_too() -> None:
    write_json(RECORD, {})
    change(Path("pipelines/lora/params.yaml"), repeats=1, further_sets={}, start="models/other")
    with pytest.raises(InputError, match="sources/start/start.safetensors: is missing"):
        build("lora")
    assert not RECORD.exists()


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ({"repeats": 10}, "`repeats` 10 has no effect without `further_sets`"),
        ({"further_sets": {"concept": 2}}, "`further_sets` has `concept`, which is already `set`"),
        ({"further_sets": {"studio": 0}}, "studio"),
    ],
)
def test_sets_and_repeats_that_mean_nothing_are_refused(asked: dict[str, Any], fault: str) -> None:
    with pytest.raises(ParamsError, match=fault):
        params_of("lora", **asked)
