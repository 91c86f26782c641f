"""A stage under watch: what is edited while it runs is refused, and nothing false is ever recorded."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.etude.watch.watched import Project, copy, kill, make_project, set_param
from tests.shipped import git

FAILED = 255  # what `dvc repro` ends with
Edit = Callable[[Project], object]


def in_place(file: Path) -> None:
    """Other content of the same size at the same time, in the same file."""
    stat = file.stat()
    with file.open("r+b") as open_file:
        open_file.write(b"x")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(file: Path) -> None:
    """As an editor saves: a new file takes the place of the old one."""
    file.with_name("other").write_text("WORD = 'edited'\n")
    file.with_name("other").replace(file)


EDITS: dict[str, tuple[Edit, str]] = {  # what is done, and what is told of it
    "whole_file": (lambda p: set_param(p.root / "in/whole_file/own.yaml", rank=5), r"own.yaml: rank (4 → 5)"),
    "new_key": (lambda p: set_param(p.root / "in/new_key/own.yaml", more={"a": 1}), "own.yaml: more ((missing) → "),
    "broken": (lambda p: (p.root / "in/broken/own.yaml").write_text("rank: [\n"), "in/broken/own.yaml: "),
    "text": (lambda p: replace(p.root / "in/text/code.txt"), "in/text/code.txt"),
    "added": (lambda p: (p.root / "in/added/data/d.png").write_bytes(b"d"), "in/added/data/d.png"),
    "removed": (lambda p: (p.root / "in/removed/data/inner/c.png").unlink(), "in/removed/data/inner/c.png"),
    "same_size": (lambda p: in_place(p.root / "in/same_size/data/b.png"), "in/same_size/data/b.png"),
    "large": (lambda p: in_place(p.root / "in/large/data/large.bin"), "in/large/data/large.bin"),
    "branch": (lambda p: git(p.root, "checkout", "-q", "other"), "in/branch/code.txt"),
    "root_key": (lambda p: set_param(p.root / "params.yaml", seed=5), "params.yaml: seed (0 → 5)"),
    "module": (lambda p: replace(p.root / "steps/helper.py"), "steps/helper.py"),
}
HARMLESS: dict[str, Edit] = {
    "other_key": lambda p: set_param(p.root / "params.yaml", threads=7),
    "touched": lambda p: os.utime(p.root / "in/touched/code.txt"),
    "swap": lambda p: (p.root / "in/swap/.code.txt.swp").write_text("an editor's"),
}
QUICK = ["other_key", "branch", "same_size", "whole_file"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("watched") / "project")


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    return copy(original, tmp_path)


@pytest.mark.parametrize(
    "names", [pytest.param([*HARMLESS, *EDITS], marks=pytest.mark.slow), QUICK], ids=["all", "few"]
)
def test_whatever_is_edited_while_a_stage_runs_it_is_refused_and_not_recorded(
    project: Project, names: list[str]
) -> None:
    project.stages(**{name: {} for name in names})
    git(project.root, "add", "in/branch", "steps")
    git(project.root, "commit", "-qm", "start")
    git(project.root, "checkout", "-qb", "other")
    (project.root / "in/branch/code.txt").write_text("of the branch")
    git(project.root, "commit", "-qam", "other")
    git(project.root, "checkout", "-q", "-")
    dvc = project.dvc("repro", "--keep-going")
    edited = []
    for _ in names:
        name, _ = project.next()
        (EDITS[name][0] if name in EDITS else HARMLESS[name])(project)
        edited += [name] * (name in EDITS)
        project.go(name)
    assert dvc.wait() == FAILED
    said = project.said()
    told = re.findall(r"^error: (.*): changed while this stage ran. Next: run `dvc repro` again\.$", said, re.M)
    assert len(told) == len(edited), said
    for name, line in zip(edited, told, strict=True):
        assert EDITS[name][1] in line, (name, line)
        assert list((project.root / "out").glob(f"*{name}*")) == [], name
    assert set(project.recorded()) == project.kept() == set(names) - set(edited)


def test_what_is_edited_before_a_stage_looks_is_refused_where_dvc_took_other_files(project: Project) -> None:
    """`dvc repro` reads dvc.yaml and what is interpolated in it once, hours before the last stage begins."""
    project.stages(first={}, late={"cmd": "python3 -m steps.late late"}, path={"deps": ["in/path/${base}", "steps"]})
    set_param(project.root / "params.yaml", base="data")
    dvc = project.dvc("repro", "--keep-going")
    assert project.next()[0] == "first"
    set_param(project.root / "params.yaml", base="code.txt")
    project.go("first")
    assert project.next()[0] == "late"
    (project.root / "steps/helper.py").write_text('WORD = "other"\n')
    project.go("late")
    assert dvc.wait() == FAILED
    said = project.said()
    told = "error: path: its params or dvc.yaml changed after dvc started"
    assert f"{told} (removed deps: in/path/data; added deps: in/path/code.txt)" in said
    assert "error: steps/helper.py: changed while this stage ran" in said
    assert project.runs() == ["first"]
    assert set(project.recorded()) == project.kept() == {"first"}


def test_what_is_edited_while_a_stage_looks_for_the_last_time_is_refused(project: Project) -> None:
    project.stages(edited={"cmd": "python3 -m steps.edited edited"})
    project.go("edited")
    assert project.dvc("repro").wait() == FAILED
    assert "error: in/edited/own.yaml: rank (4 → 5): changed while this stage ran" in project.said()
    assert (project.recorded(), project.kept()) == ({}, set())


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stage_whose_dvc_was_killed_ends_and_the_next_one_waits_for_it(project: Project, number: int) -> None:
    project.stages(one={})
    first = project.dvc("repro")
    orphan = psutil.Process(project.next()[1])
    orphan.suspend()  # it cannot notice yet
    kill(first, number)
    draft = project.root / "out/.one-draft"  # as a stage leaves it that is killed itself
    draft.mkdir(parents=True)
    second = project.dvc("repro")
    project.wait_until(
        lambda: f"one: process {orphan.pid} is still working on it; waiting until it has ended" in project.said()
    )
    assert project.runs() == ["one"]
    orphan.resume()
    project.next()
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    assert "which started this stage" not in project.said()
    project.go("one")
    assert second.wait() == 0
    assert project.made("one").endswith("helped " + "".join(f"{number}\n" for number in range(10)) + "end\n")
    assert f"error: one: the process that started this stage ({first.pid}) has ended" in project.said()
    assert not draft.exists()


def test_drafts_of_a_killed_run_go_also_where_the_outs_lie_in_the_folder_that_is_published(project: Project) -> None:
    project.stages(one={"outs": ["out/one/made.txt"]})
    draft = project.root / "out/.one-draft"
    draft.mkdir(parents=True)
    project.go("one")
    assert project.dvc("repro").wait() == 0, project.said()
    assert not draft.exists()


def test_the_lock_lasts_as_long_as_the_last_process_of_a_stage(project: Project) -> None:
    project.stages(one={"cmd": "python3 -m steps.many one"})
    first = project.start(sys.executable, "-m", "steps.many", "one")
    worker = psutil.Process(project.next()[1])
    worker.suspend()
    kill(first)
    second = project.start(sys.executable, "-m", "steps.many", "one")
    project.wait_until(lambda: f"one: process {first.pid} is still working on it" in project.said())
    worker.resume()
    project.next()
    project.go("one")
    assert second.wait() == 0
    assert project.made("one").endswith("9\nend\n")


def test_a_person_does_not_publish_where_a_dvc_is_at_work(project: Project) -> None:
    project.stages(one={})
    own = project.start(sys.executable, "-m", "steps.work", "one")
    project.next()
    dvc = project.dvc("repro")
    project.wait_until(lambda: "waiting until it has ended" in project.said())
    project.go("one")
    assert own.wait() == 1
    assert (
        f"error: out/one: dvc (process {dvc.pid}) is making it. Next: wait until that process has ended."
        in project.said()
    )
    assert dvc.wait() == 0
    assert project.runs() == ["one", "one"]


def test_a_person_who_runs_a_stage_is_watched_as_dvc_is(project: Project) -> None:
    project.stages(one={})
    own = project.start(sys.executable, "-m", "steps.work", "one")
    project.next()
    set_param(project.root / "params.yaml", seed=5)
    project.go("one")
    assert own.wait() == 1
    assert "params.yaml: seed (0 → 5): changed while this stage ran" in project.said()
    assert not (project.root / "out/one").exists()


@pytest.mark.slow
def test_whenever_dvc_is_killed_alone_the_next_one_makes_the_same(project: Project) -> None:
    """`KILLS=40` tries forty moments, from before the stage begins until it publishes."""
    project.stages(one={})
    project.go("one")
    first = project.dvc("repro")
    start = time.monotonic()
    assert first.wait() == 0
    took, made = time.monotonic() - start, project.made("one")
    for number in range(int(os.environ.get("KILLS", "3"))):
        (project.root / "dvc.lock").unlink(missing_ok=True)
        dvc = project.dvc("repro", "--no-run-cache")
        time.sleep(random.Random(number).uniform(0.2, 1.0) * took)
        kill(dvc, (signal.SIGKILL, signal.SIGTERM)[number % 2])
        for own in (project.root / "dvc.lock", project.root / ".dvc/tmp/rwlock"):
            if own.exists() and not own.read_text():  # DVC writes them in place, and was killed just then
                own.unlink()
        assert project.dvc("repro", "--no-run-cache").wait() == 0, project.said()
        assert project.made("one") == made, f"kill {number}: {project.said()}"
        assert {path.name for path in (project.root / "out").iterdir()} == {"one", ".gitignore"}
        assert set(project.recorded()) == {"one"}
