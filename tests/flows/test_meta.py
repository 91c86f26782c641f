"""What a stage's plan is made of: its needs, its recipe, its reasons and its names, from one small graph of DVC's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from etude.core.errors import InputError
from flows import durations, plan
from flows.plan import Stage
from tests.flows.conftest import Project

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture(scope="module")
def once(empty_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three stages that ran once, and one that never did."""
    project = Project(Path(shutil.copytree(empty_project, tmp_path_factory.mktemp("meta") / "project")))
    (project.root / "params.yaml").write_text("rate: 1\nnest: {a: 1, b: 2}\nold: 1\n")
    (project.root / "in.txt").write_text("once")
    (project.root / "photo.png").write_text("a picture")
    project.dvc("add", "--quiet", "photo.png")
    needs = {"flow": {"resource": "gpu", "timeout": "1.5h", "retries": "2"}}
    project.stages(
        one={"deps": ["in.txt", "photo.png"], "params": ["rate", "nest", "old"], "meta": needs},
        two={"deps": ["out/one"], "meta": {"other": 1}},
        three={"deps": ["in.txt"], "meta": {"flow": {}}},
    )
    project.dvc("repro", "--quiet")
    return project


@pytest.fixture
def project(once: Project, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(once.root, tmp_path / "project")))


def loaded(project: Project, **given: bool) -> dict[str, Stage]:
    return {stage.label: stage for stage in plan.load(project.root, **given)}


def test_a_stage_has_the_needs_that_dvc_yaml_says_and_else_none(once: Project) -> None:
    stages = loaded(once)
    assert set(stages) == {"photo.png.dvc", "one", "two", "three"}
    needs = {label: (stage.resource, stage.timeout, stage.retries) for label, stage in stages.items()}
    plain = ("cpu", 0.0, 0)
    assert needs == {"photo.png.dvc": plain, "one": ("gpu", 5400.0, 2), "two": plain, "three": plain}
    assert stages["one"].upstream == ("photo.png.dvc",)
    assert stages["two"].upstream == ("one",)
    assert (stages["one"].outs, stages["photo.png.dvc"].outs) == (("out/one",), ("photo.png",))


def test_with_force_every_stage_with_a_command_runs_and_says_why(project: Project) -> None:
    (project.root / "in.txt").write_text("again")
    why = {label: stage.why for label, stage in loaded(project, force=True).items()}
    edited = ("in.txt modified",)
    assert why == {"photo.png.dvc": (), "one": edited, "two": ("forced",), "three": edited}


def test_each_kind_of_change_is_said_in_words(project: Project) -> None:
    (project.root / "params.yaml").write_text("rate: 2\nnest: {a: 1, c: 3}\n")
    (project.root / "photo.png").unlink()
    (project.root / "out/one").write_text("edited")
    text = (project.root / "dvc.yaml").read_text()
    (project.root / "dvc.yaml").write_text(text.replace("work.py three", "work.py  three"))
    why = {label: stage.why for label, stage in loaded(project).items()}
    assert why["photo.png.dvc"] == ("photo.png missing",)
    said = set(why["one"])
    changes = {"params.yaml: rate 1 → 2", "params.yaml: nest.b 2 → None, nest.c None → 3", "params.yaml: old deleted"}
    assert said == changes | {"photo.png missing", "out/one modified"}
    assert why["two"] == ("out/one modified",)
    assert why["three"] == ("its command changed",)


def test_a_recipe_is_the_command_the_parameters_the_paths_and_the_recipes_before_it(project: Project) -> None:
    before = {label: stage.recipe for label, stage in loaded(project).items()}
    assert len(set(before.values())) == 4
    (project.root / "in.txt").write_text("again")
    (project.root / "other.yaml").write_text("rate: 1\n")
    assert {label: stage.recipe for label, stage in loaded(project).items()} == before  # contents are DVC's business
    (project.root / "params.yaml").write_text("rate: 2\nnest: {a: 1, b: 2}\nold: 1\n")
    after = {label: stage.recipe for label, stage in loaded(project).items()}
    assert {label for label in before if before[label] != after[label]} == {"one", "two"}
    text = (project.root / "dvc.yaml").read_text()
    (project.root / "dvc.yaml").write_text(text.replace("python3 work.py three", "python3 work.py three more"))
    again = {label: stage.recipe for label, stage in loaded(project).items()}
    assert {label for label in after if after[label] != again[label]} == {"three"}


def test_one_missing_input_is_named_alone(project: Project) -> None:
    (project.root / "in.txt").unlink()
    with pytest.raises(InputError, match=r"^in\.txt: is missing, and no stage makes it. Next: run `etude check`"):
        plan.load(project.root)
    assert [stage.label for stage in plan.load(project.root, ["photo.png"])] == ["photo.png.dvc"]


def test_a_target_is_a_name_a_label_a_group_a_file_a_folder_or_an_output(once: Project) -> None:
    for target in ("two", "out/two", "out/two/"):
        assert [stage.label for stage in plan.load(once.root, [target])] == ["photo.png.dvc", "one", "two"]
    assert {stage.label for stage in plan.load(once.root, ["dvc.yaml"])} == {"photo.png.dvc", "one", "two", "three"}
    with pytest.raises(
        InputError, match="^work: no stage, group, method or output has this name. Next: see all stages with `dvc stage"
    ):
        plan.load(once.root, ["work"])
    with pytest.raises(InputError, match="^ot/on: .*Next: did you mean out/one or out/two"):
        plan.load(once.root, ["ot/on"])


def test_of_many_names_that_are_near_three_are_offered(project: Project) -> None:
    project.stages(**{f"part{number}": {} for number in range(5)})
    with pytest.raises(InputError, match=r"^out/part9: .*Next: did you mean out/part\d or out/part\d or out/part\d\?"):
        plan.load(project.root, ["out/part9"])


def test_a_stage_is_shown_with_its_title_and_has_a_place_for_its_files() -> None:
    stage = Stage("pipelines/lora/dvc.yaml:build", "lora:build")
    assert (stage.shown, stage.slug) == ("lora:build", "lora/build")
    assert replace(stage, title="rank-4").shown == "rank-4 lora:build"


def test_labels_are_short_unless_two_would_be_alike() -> None:
    names = ["a", "photos.dvc", "dvc.yaml:b", "pipelines/lora/dvc.yaml:build", "x/y/dvc.yaml:c", "z/y/dvc.yaml:c"]
    assert plan._labels(iter(names)) == {
        "a": "a",
        "photos.dvc": "photos.dvc",
        "dvc.yaml:b": "dvc.yaml:b",
        "pipelines/lora/dvc.yaml:build": "lora:build",
        "x/y/dvc.yaml:c": "x/y/dvc.yaml:c",
        "z/y/dvc.yaml:c": "z/y/dvc.yaml:c",
    }


@pytest.mark.parametrize(
    ("path", "out", "made"),
    [("a", "a", True), ("a/b", "a", True), ("a", "a/b", True), ("ab", "a", False), ("a", "ab", False)],
)
def test_what_lies_in_an_out_or_holds_one_is_made(path: str, out: str, made: bool) -> None:
    assert plan._made_among(path, ["x", out]) is made
    assert not plan._made_among(path, [])


def test_a_stage_waits_for_what_runs_before_it_also_far_before(tmp_path: Path) -> None:
    graph = [
        Stage("a", "A", why=("edited", "more")),
        Stage("b", "B", ("a",)),
        Stage("c", "C", ("b", "a")),
        Stage("d", "D"),
    ]
    assert plan.pending(graph) == {
        graph[0]: ("edited", "more"),
        graph[1]: ("after A",),
        graph[2]: ("after B, A",),
    }
    (tmp_path / ".scratch").write_text("a file, as a full disk is")
    durations.keep(tmp_path, graph[0], 1.0)
    (tmp_path / ".scratch").unlink()
    durations.keep(tmp_path, Stage("x", "lora:build"), 12.34)
    assert (tmp_path / ".scratch/seconds/lora/build").read_text() == "12.3"
