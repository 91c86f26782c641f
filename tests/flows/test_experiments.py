"""Runs elsewhere, and what is made of their results: reproductions and sweeps, without a server and without DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import experiments
from flows.comparison import Result, Trial
from flows.verdict import CLOSE, DIFFERS, IDENTICAL, MISSING, Verdict
from flows.work import Work
from tests.flows.conftest import STAGES, Calls, Trees

pytestmark = pytest.mark.usefixtures("board")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Calls:
    tables = Calls()
    monkeypatch.setattr(experiments, "create_table_artifact", tables)
    return tables


@pytest.fixture
def reproduced(trees: Trees, tables: Calls, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the flow `reproduce` calls, with made-up answers; only the first stage is carried out."""
    seen: dict[str, Any] = {"judge": Calls([Verdict("made", "out/a", CLOSE, ("x 1 → 2",))]), "load": Calls(STAGES)}
    seen |= {"trees": trees, "tables": tables, "works": []}

    def carry_out(work: Work) -> None:
        seen["works"].append(work)
        (work.site.root / "ran").touch()
        work.note(work.stages[0], outcome="ran")

    def read_locks(tree: Path) -> dict[str, Any]:
        return {"after" if (tree / "ran").exists() else "before": {}}

    monkeypatch.setattr(experiments, "carry_out", lambda work: (work.board.begin(work.stages), carry_out(work)))
    monkeypatch.setattr(experiments.plan, "load", seen["load"])
    monkeypatch.setattr(experiments.repository, "cache_folder", lambda folder: folder / "cache")
    monkeypatch.setattr(experiments.verdict, "read_locks", read_locks)
    monkeypatch.setattr(experiments.verdict, "judge", seen["judge"])
    monkeypatch.setattr(experiments.verdict, "environments", lambda *_: ["torch 1 → 2"])
    return seen


def test_a_revision_is_run_in_a_tree_of_its_own_and_compared_with_what_was_recorded(
    tmp_path: Path, reproduced: dict[str, Any]
) -> None:
    state = experiments.reproduce.fn("v1", str(tmp_path), ["made"], 3, ["5"], True, 0.25)
    tree = tmp_path / "trees/tree0"
    assert reproduced["trees"].asked == [(tmp_path, "v1", {"fresh": True})]
    assert reproduced["trees"].open == 0
    assert reproduced["load"] == [(tree, ["made"], {"force": True})]
    (work,) = reproduced["works"]
    site = work.site
    assert (site.root, site.jobs, site.gpus, site.force, site.held) == (tree, 3, ["5"], True, [100])
    assert site.slots.folder == tmp_path / ".scratch/slots"  # those of the user's checkout
    assert [stage.shown for stage in work.stages] == ["v1 made", "v1 lost"]
    ((before, after, done, tolerance),) = reproduced["judge"]
    assert (before.locks, before.cache) == ({"before": {}}, tmp_path / "cache")
    assert (after.locks, after.cache) == ({"after": {}}, tree / "cache")
    assert (done, tolerance) == ({"m.yaml:made": "made"}, 0.25)
    assert state.is_failed()
    assert state.message.splitlines() == [
        "within tolerance  made  out/a: x 1 → 2",
        "not made  lost  ",
        "made in another environment: torch 1 → 2",
        "v1: 1 within tolerance, 1 not made",
        "1 of 2 stages not begun",
    ]
    rows = [
        {"stage": "made", "output": "out/a", "verdict": CLOSE, "what": "x 1 → 2"},
        {"stage": "lost", "output": "", "verdict": MISSING, "what": ""},
    ]
    assert reproduced["tables"] == [({"table": rows, "key": "reproduction", "description": "v1"},)]


def test_by_default_a_thousandth_is_tolerated_and_what_dvc_remembers_is_not_made_again(
    tmp_path: Path, reproduced: dict[str, Any]
) -> None:
    reproduced["load"].result = STAGES[:1]
    state = experiments.reproduce.fn("v1", tmp_path)
    assert reproduced["trees"].asked == [(tmp_path, "v1", {"fresh": False})]
    assert reproduced["load"] == [(tmp_path / "trees/tree0", (), {"force": False})]
    assert reproduced["judge"][0][3] == 1e-3
    site = reproduced["works"][0].site
    assert (site.jobs, list(site.gpus), site.force) == (1, [], False)
    assert state.is_completed()
    assert state.message.splitlines()[-1] == "v1: 1 within tolerance"  # and nothing about stages that were not begun


@pytest.mark.parametrize(
    ("verdicts", "same"),
    [
        ([IDENTICAL], True),
        ([IDENTICAL, CLOSE], True),
        ([IDENTICAL, DIFFERS], False),
        ([MISSING, CLOSE], False),
        ([], False),  # nothing was recorded
    ],
)
def test_a_reproduction_is_complete_where_every_output_is_the_same_and_only_there(
    verdicts: list[str], same: bool, tmp_path: Path, reproduced: dict[str, Any]
) -> None:
    reproduced["load"].result = STAGES[:1]
    reproduced["judge"].result = [Verdict("made", f"out/{number}", one) for number, one in enumerate(verdicts)]
    state = experiments.reproduce.fn("v1", tmp_path)
    assert state.is_completed() == same
    assert state.is_failed() != same


def test_what_is_identical_is_only_counted_unless_something_else_changed() -> None:
    verdicts = [
        Verdict("a", "out/a", IDENTICAL),
        Verdict("b", "out/b", IDENTICAL, ("its command changed", "rank 4 → 8")),
        Verdict("c", "out/c", DIFFERS),
    ]
    assert experiments._summary("v1", verdicts, []).splitlines() == [
        "identical  b  out/b: its command changed; rank 4 → 8",
        "differs  c  out/c",
        "v1: 2 identical, 1 differs",
    ]
    assert experiments._summary("v1", [], []) == "v1: nothing was recorded"


@pytest.fixture
def tried(tables: Calls, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `sweep` asks to be tried; the trials end in another order, those of rate 3 with a fault."""
    asked: list[tuple[Any, ...]] = []

    def try_all(root: Path, trials: list[Trial], jobs: int, gpus: list[str], done: Any, name: str) -> None:
        asked.append((root, trials, jobs, gpus, name))
        for trial in reversed(trials):
            fault = "it broke" if trial.title == "rate-3" else ""
            done(trial, Result(f"{name}-{trial.title}", {} if fault else {"loss": 0.5}, fault=fault))

    monkeypatch.setattr(experiments, "try_all", try_all)
    return asked


def test_a_sweep_tries_every_combination_and_names_what_was_kept_and_what_failed(
    tmp_path: Path, tried: list[tuple[Any, ...]], tables: Calls
) -> None:
    state = experiments.sweep.fn(["rate=2,3,4"], str(tmp_path), ["lora"], 3, ["5"], "mine")
    trials = [Trial(f"rate-{rate}", {"params.yaml": [f"rate={rate}"]}, ["lora"]) for rate in (2, 3, 4)]
    assert tried == [(tmp_path, trials, 3, ["5"], "mine")]
    assert state.is_failed()
    assert state.message.splitlines() == [
        "mine-rate-3: it broke",
        "2 experiments kept: mine-rate-2, mine-rate-4",
        "compared in logs/sweeps/mine.html",
    ]
    page = (tmp_path / "logs/sweeps/mine.html").read_text()
    assert page.index("mine-rate-2") < page.index("mine-rate-3") < page.index("mine-rate-4")
    rows = [{"experiment": f"mine-rate-{rate}"} | ({} if rate == 3 else {"loss": 0.5}) for rate in (2, 3, 4)]
    assert tables == [({"table": rows, "key": "sweep", "description": "mine"},)]


def test_a_sweep_without_a_fault_is_complete_and_is_called_sweep(tmp_path: Path, tried: list[tuple[Any, ...]]) -> None:
    state = experiments.sweep.fn(["rate=2"], tmp_path)
    assert state.is_completed()
    assert state.message == "1 experiments kept: sweep-rate-2\ncompared in logs/sweeps/sweep.html"
    ((_, (trial,), jobs, gpus, name),) = tried
    assert (trial.targets, jobs, gpus, name) == ((), 1, (), "sweep")
