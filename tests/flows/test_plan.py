"""What DVC says there is to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etude.core.errors import InputError
from flows import durations, plan
from flows.plan import Stage
from tests.flows.conftest import Project, wait_until

# DVC 3.67 calls what pygtrie 2.5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def diamond(project: Project) -> Project:
    """first → left, right → build (of a method) → report; and a method that the root does not reach."""
    (project.root / "params.yaml").write_text("rate: 1\nnest: {depth: 1, width: 2}\n")
    project.stages(
        first={"params": ["rate", "nest"]},
        left={"deps": ["out/first"]},
        right={"deps": ["out/first"]},
        report={"deps": ["out/build", "out/right"]},
    )
    meta = {"flow": {"resource": "gpu", "timeout": "4h", "retries": 2}}
    project.stages("pipelines/toy/dvc.yaml", build={"deps": ["out/left"], "meta": meta})
    project.stages("pipelines/other/dvc.yaml", build={"deps": ["out/left"], "outs": ["out/other"]})
    return project


def labels(stages: list[Stage]) -> list[str]:
    return [stage.label for stage in stages]


def test_the_plan_is_what_the_root_file_reaches_upstream_first(diamond: Project) -> None:
    stages = plan.load(diamond.root)
    assert sorted(labels(stages)) == ["first", "left", "report", "right", "toy:build"]
    seen: set[str] = set()
    for stage in stages:
        assert set(stage.upstream) <= seen
        seen.add(stage.name)


def test_names_are_addresses_from_the_root_whatever_the_current_folder(
    diamond: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = plan.load(diamond.root)
    monkeypatch.chdir(diamond.root / "pipelines" / "toy")
    assert plan.load(diamond.root) == here
    assert "pipelines/toy/dvc.yaml:build" in [stage.name for stage in here]


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("toy", "toy:build"),
        ("toy:build", "toy:build"),
        ("pipelines/toy/dvc.yaml:build", "toy:build"),
        ("pipelines/other/", "other:build"),
        ("out/right", "right"),
    ],
)
def test_a_target_brings_what_it_depends_on_and_no_more(diamond: Project, target: str, last: str) -> None:
    stages = plan.load(diamond.root, [target])
    assert labels(stages)[-1] == last
    middle = [] if last == "right" else ["left"]
    assert labels(stages)[:-1] == ["first", *middle]


def test_several_targets_bring_what_each_of_them_depends_on_once(diamond: Project) -> None:
    assert labels(plan.load(diamond.root, ["right", "left"])) == ["first", "right", "left"]


def test_what_no_stage_makes_and_is_not_there_is_told_before_anything_runs(diamond: Project) -> None:
    diamond.stages(second={"deps": ["out/first", "models/base"]}, first={"deps": ["photos"]})
    with pytest.raises(InputError, match=r"^(?=.*models/base)(?=.*photos).* are missing, and no stage makes them"):
        plan.load(diamond.root)
    for name in ("models/base", "photos"):
        (diamond.root / name).mkdir(parents=True)
        (diamond.root / name / "file").write_text("there", encoding="utf-8")
    assert labels(plan.load(diamond.root)) == ["first", "second"]
    shutil.rmtree(diamond.root / ".git")
    with pytest.raises(InputError, match=r"is a copy without \.git.* Next: run `git init && "):
        plan.load(diamond.root)


def test_a_group_of_generated_stages_is_a_target(project: Project) -> None:
    (project.root / "dvc.yaml").write_text("stages: {cut: {foreach: [a, b], do: {cmd: 'true', outs: ['${item}']}}}")
    assert labels(plan.load(project.root, ["cut"])) == ["cut@a", "cut@b"]
    assert labels(plan.load(project.root, ["cut@b"])) == ["cut@b"]


def test_an_unknown_target_is_refused_with_the_nearest_names(diamond: Project) -> None:
    with pytest.raises(InputError, match="did you mean report"):
        plan.load(diamond.root, ["raport"])


def test_a_file_that_does_not_parse_is_named(diamond: Project) -> None:
    (diamond.root / "pipelines/other/dvc.yaml").write_text("stages: [")
    with pytest.raises(InputError, match=r"pipelines/other/dvc\.yaml"):
        plan.load(diamond.root)


def test_two_methods_in_folders_of_one_name_keep_their_full_names(project: Project) -> None:
    project.stages("a/toy/dvc.yaml", build={"outs": ["out/a"]})
    project.stages("b/toy/dvc.yaml", build={"outs": ["out/b"]})
    assert labels(plan.load(project.root, ["a/toy", "b/toy"])) == ["a/toy/dvc.yaml:build", "b/toy/dvc.yaml:build"]


def test_a_stage_says_what_it_needs(diamond: Project) -> None:
    build = plan.load(diamond.root, ["toy"])[-1]
    assert (build.resource, build.timeout, build.retries) == ("gpu", 4 * 3600, 2)


@pytest.mark.parametrize("meta", [{"timeout": "soon"}, {"retries": "many"}, {"resource": "tpu"}])
def test_a_need_that_makes_no_sense_is_refused(project: Project, meta: dict[str, str]) -> None:
    project.stages(only={"meta": {"flow": meta}})
    with pytest.raises(InputError, match="only: meta.flow"):
        plan.load(project.root)


def test_a_frozen_stage_does_not_bring_its_dependencies(diamond: Project) -> None:
    diamond.stages("pipelines/toy/dvc.yaml", build={"deps": ["out/left"], "frozen": True})
    assert labels(plan.load(diamond.root, ["toy"])) == ["toy:build"]


def why(project: Project) -> dict[str, tuple[str, ...]]:
    return {stage.label: stage.why for stage in plan.load(project.root)}


def test_the_reason_to_run_is_what_changed(diamond: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(diamond.root / "pipelines")
    assert set(why(diamond).values()) == {("never run",)}
    diamond.dvc("repro", "--quiet")
    assert set(why(diamond).values()) == {()}
    (diamond.root / "params.yaml").write_text("rate: 3\nnest: {depth: 4, width: 2}\n")
    (diamond.root / "out/right").unlink()
    (diamond.root / "out/left").write_text("edited")
    reasons = why(diamond)
    assert reasons["first"] == ("params.yaml: rate 1 → 3", "params.yaml: nest.depth 1 → 4")
    assert reasons["right"] == ("out/right missing",)
    assert reasons["toy:build"] == ("out/left modified",)
    todo = {stage.label: reason for stage, reason in plan.pending(plan.load(diamond.root)).items()}
    assert todo["report"][0] == "out/right missing"
    stages = [Stage("a", "a", why=("edited",)), Stage("b", "b", ("a",)), Stage("c", "c")]
    assert plan.pending(stages) == {stages[0]: ("edited",), stages[1]: ("after a",)}


def test_force_wants_every_stage_again(diamond: Project) -> None:
    assert all(stage.why for stage in plan.load(diamond.root, force=True))


def test_a_stage_that_another_process_works_on_is_busy(project: Project) -> None:
    project.stages(slow={"words": ["wait:go"]}, after={"deps": ["out/slow"]})
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=project.root)
    wait_until((project.root / "slow.pid").exists)
    assert why(project) == {"slow": (plan.BUSY,), "after": (plan.BUSY,)}
    (project.root / "go").touch()
    assert other.wait() == 0
    assert why(project) == {"slow": (), "after": ()}


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("1.5m", 90), ("4h", 14400), ("2d", 172800), (7, 7)])
def test_durations_are_read_with_their_unit(text: str | int, value: float) -> None:
    assert plan.seconds(text) == value


def test_an_estimate_knows_what_runs_side_by_side(tmp_path: Path) -> None:
    stages = [Stage("a", "a"), Stage("b", "b", ("a",)), Stage("c", "c", ("a",)), Stage("d", "d", ("b", "c"))]
    took = {"a": 1.0, "b": 5.0, "c": 3.0, "d": 1.0}
    assert durations.estimate(stages, took, 1) == 10
    assert durations.estimate(stages, took, 2) == 7
    assert durations.urgency(stages, took) == {"a": 7, "b": 6, "c": 4, "d": 1}
    assert durations.recall(tmp_path, stages[0]) is None
    durations.keep(tmp_path, stages[0], 2.5)
    assert durations.recall(tmp_path, stages[0]) == 2.5
    durations.keep(tmp_path, stages[1], 0.04)
    (tmp_path / ".scratch/seconds/c").write_text("cut")
    assert durations.recall_all(tmp_path, stages) == {"a": 2.5, "b": 0.0}


def test_what_never_ran_takes_no_time_in_an_estimate_and_a_second_in_the_order() -> None:
    stages = [Stage("a", "a"), Stage("d", "d"), Stage("b", "b", ("a",)), Stage("c", "c", ("b",))]
    assert durations.estimate(stages, {"a": 4.0, "c": 2.0, "d": 5.0}, 2) == 6
    assert durations.estimate(stages, {"d": 5.0}, 1) == 5
    assert durations.estimate(stages, {}, 3) == durations.estimate([], {}, 1) == 0
    assert durations.urgency(stages, {"a": 4.0}) == {"a": 6, "b": 2, "c": 1, "d": 1}


def test_sources_are_what_no_stage_makes(project: Project) -> None:
    for name in ("a.txt", "b.txt", "folder/c.txt"):
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text(name)
    (project.root / "params.yaml").write_text("rate: 1\nsize: {width: 2}\n")
    (project.root / "all.yaml").write_text("x: 1\n")
    project.dvc("add", "--quiet", "b.txt")
    one = {"deps": ["a.txt", "b.txt"], "params": ["rate", {"all.yaml": None}]}
    two = {"deps": ["out/one", "folder"], "params": ["size.width", "rate"]}
    project.stages(one=one, two=two, apart={"deps": ["a.txt"]})
    found = plan.sources(project.root, ["two", "apart"])
    assert found["two"] == plan.Sources(
        paths=("a.txt", "b.txt", "folder"),
        outs=("out/one", "out/two"),
        params={"all.yaml": (), "params.yaml": ("rate", "size.width")},
        commands=("python3 work.py one", "python3 work.py two"),
    )
    assert found["apart"].paths == ("a.txt",)
    project.stages(zeta={}, alpha={"deps": ["out/zeta"]})  # zeta runs first
    assert plan.sources(project.root, ["alpha"])["alpha"].commands == ("python3 work.py alpha", "python3 work.py zeta")


def test_a_folder_of_outs_that_another_stage_reads_is_made_and_no_source(project: Project) -> None:
    one = {"outs": ["out/folder/one"]}
    project.stages(one=one, two={"deps": ["out/folder"]})
    found = plan.sources(project.root, ["two"])["two"]
    assert found.paths == ()
    assert found.outs == ("out/folder/one", "out/two")
