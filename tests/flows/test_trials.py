"""The trials of a sweep: each in a worktree of its own, and kept or not. Without a server and without DVC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core.errors import InputError
from flows import experiments
from flows.board import Board
from flows.comparison import Result, Trial
from flows.experiments import titled
from flows.stage import Site
from flows.work import Work
from tests.flows.conftest import STAGES, Calls, Trees

pytestmark = pytest.mark.usefixtures("board")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The calls that save an experiment.

    Settling gives both stages the same outcome; numbers and pictures are made up.
    """
    kept = Calls()
    monkeypatch.setattr(experiments, "keep", kept)
    monkeypatch.setattr(experiments, "settle", lambda work, futures: [work.note(stage, **futures) for stage in STAGES])
    monkeypatch.setattr(experiments.artifacts, "numbers", lambda tree, stage: {"loss": len(stage.name)})
    picture = {"out/grid.png": tmp_path / "grid.png"}
    monkeypatch.setattr(experiments.artifacts, "pictures", lambda tree, stage: picture if stage is STAGES[1] else {})
    monkeypatch.setattr(experiments.artifacts, "thumbnail", lambda file: file.name.encode())
    return kept


def settled(folder: Path) -> Work:
    work = Work(Site(folder, 1), STAGES, Board())
    work.board.begin(STAGES)
    return work


@pytest.mark.parametrize("saved", [True, False])
def test_a_trial_that_is_done_gives_its_numbers_and_pictures_and_is_kept_where_that_is_wanted(
    saved: bool, tmp_path: Path, kept: Calls
) -> None:
    work = settled(tmp_path / "tree")
    result = experiments.keep_experiment.fn(tmp_path, work, {"outcome": "ran"}, "one", saved)
    assert result == Result(
        "one", {"made loss": 11, "lost loss": 11}, {"out/grid.png": "data:image/webp;base64,Z3JpZC5wbmc="}
    )
    assert kept == ([(tmp_path, tmp_path / "tree", "one", ["m.yaml:made", "m.yaml:lost"])] if saved else [])


def test_a_trial_that_is_not_done_gives_its_fault_and_is_not_kept(
    tmp_path: Path, kept: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = experiments.keep_experiment.fn(tmp_path, settled(tmp_path), {"fault": "it broke"}, "one", True)
    assert result == Result("one", fault="2 of 2 stages failed: made, lost.\n\nit broke\n\nit broke")
    assert kept == []

    def refuse(*_: object) -> None:
        raise InputError("one", "cannot be saved", "try again")

    monkeypatch.setattr(experiments, "keep", refuse)
    result = experiments.keep_experiment.fn(tmp_path, settled(tmp_path), {"outcome": "ran"}, "one", True)
    assert result == Result("one", fault="one: cannot be saved. Next: try again.")


@dataclass(frozen=True)
class Kept:
    """A task that keeps an experiment."""

    name: str

    def result(self) -> Result:
        return Result(self.name)


@pytest.fixture
def trying(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> dict[str, Calls]:
    """What `try_all` calls; each trial ends when it is waited for, the last one first."""
    called = {name: Calls() for name in ("submit", "keep", "options", "override", "load")}
    called["load"].result = STAGES
    called["submit"].result = "futures"

    def keep(*given: Any) -> Any:
        called["keep"](*given)
        return Kept(given[3])

    def with_options(**options: Any) -> Any:
        called["options"](**options)
        return SimpleNamespace(submit=keep)

    monkeypatch.setattr(experiments, "submit", called["submit"])
    monkeypatch.setattr(experiments, "keep_experiment", SimpleNamespace(with_options=with_options))
    monkeypatch.setattr(experiments, "as_completed", reversed)
    monkeypatch.setattr(experiments, "resolve", lambda root, revision: f"commit of {revision}")
    monkeypatch.setattr(experiments, "edits_of", lambda root: b"edits")
    monkeypatch.setattr(experiments.repository, "override", called["override"])
    monkeypatch.setattr(experiments.plan, "load", called["load"])
    return called


TRIALS = [Trial(f"rate-{rate}", {"params.yaml": [f"rate={rate}"]}, ["lora"]) for rate in range(4)]


def test_every_trial_starts_from_the_present_commit_with_the_present_edits(
    tmp_path: Path, trees: Trees, trying: dict[str, Calls], board: Board
) -> None:
    ended: list[tuple[str, str, int]] = []
    done = lambda trial, result: ended.append((trial.title, result.name, trees.open))  # noqa: E731
    experiments.try_all(tmp_path, TRIALS, 1, ["5"], done, "mine")
    assert trees.asked == [(tmp_path, "commit of HEAD", {"edits": b"edits"})] * 4
    places = [tmp_path / f"trees/tree{number}" for number in range(4)]
    assert trying["override"] == [(tree, trial.values) for tree, trial in zip(places, TRIALS, strict=True)]
    assert trying["load"] == [(tree, ["lora"]) for tree in places]
    works = [work for work, _ in trying["submit"]]
    assert [work.site.root for work in works] == places
    assert [(work.site.jobs, work.site.gpus, work.site.held) for work in works] == [
        (1, ["5"], [100 + n]) for n in range(4)
    ]
    assert {work.site.slots.folder for work in works} == {tmp_path / ".scratch/slots"}
    assert len({id(same) for _, same in trying["submit"]}) == 1  # stages of one recipe run once
    assert list(board.rows) == [f"{trial.title} {stage}" for trial in TRIALS for stage in ("made", "lost")]
    assert [one["name"] for (one,) in trying["options"]] == [f"keep {trial.title}" for trial in TRIALS]
    assert [one["task_run_name"] for (one,) in trying["options"]] == [f"keep {trial.title}" for trial in TRIALS]
    given = [(root, work, futures.unquote(), title, saved) for root, work, futures, title, saved in trying["keep"]]
    assert given == [(tmp_path, work, "futures", f"mine-rate-{n}", True) for n, work in enumerate(works)]
    # At most jobs + 1 trials have a worktree at once. While a trial is reported, its worktree still exists; then it is
    # removed.
    assert ended == [
        ("rate-1", "mine-rate-1", 2),
        ("rate-2", "mine-rate-2", 2),
        ("rate-3", "mine-rate-3", 2),
        ("rate-0", "mine-rate-0", 1),
    ]
    assert trees.open == 0


def test_without_a_name_trials_are_not_kept(tmp_path: Path, trees: Trees, trying: dict[str, Calls]) -> None:
    most: list[int] = []
    experiments.try_all(tmp_path, TRIALS, 8, [], lambda *_: most.append(trees.open))
    assert [(title, saved) for *_, title, saved in trying["keep"]] == [(trial.title, False) for trial in TRIALS]
    assert most == [4, 3, 2, 1]


def test_an_error_clears_every_tree_and_stops_what_runs_in_it(
    tmp_path: Path, trees: Trees, trying: dict[str, Calls]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiments.try_all(tmp_path, TRIALS, 1, [], stop)
    assert trees.open == 0
    assert len(trying["submit"]) == 2
    assert all(work.stopping.is_set() for work, _ in trying["submit"])


def test_a_title_is_made_of_the_last_word_of_each_key_and_its_value() -> None:
    values = {"a.yaml": ["+x.y.rank=4", "~gone"], "b.yaml": ["text=(a, b)"]}
    assert titled([values]) == {"rank-4-gone--text--a-b": values}
    assert list(titled([{"a.yaml": ["x=.5."]}])) == ["x-.5"]
