"""The commands of flows: what each asks of its flow, in which order, and how it ends. No flow runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer
from httpx import ConnectError, ReadTimeout
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner
from typer.testing import CliRunner

from etude.core.errors import InputError
from flows import board as boards
from flows import (
    drafts,
    durations,
    experiments,
    graph,
    machines,
    plan,
    repository,
    reproduce,
    run,
    runners,
    server,
    sweep,
    terminal,
    worktree,
)
from flows.board import Board
from flows.plan import Stage
from flows.process import POLL
from flows.stage import GRACE, Site
from flows.work import Work
from tests.flows.conftest import Calls, Clock

STAGES = [Stage("a", "a"), Stage("b", "b", ("a",), why=("x", "y")), Stage("c", "c", ("b",))]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What a command asks for, by name and in order; every flow ends well and says `done`."""
    asked = Calls()
    state = SimpleNamespace(message="done", is_completed=lambda: True, name="Completed")

    def note(name: str, answer: Any = None) -> Any:
        return lambda *given, **named: (asked(name, *given, *([named] if named else [])), answer)[1]

    monkeypatch.setattr(server, "connect", note("connect", note("ready", "http://here")))
    monkeypatch.setattr(worktree, "resolve", note("resolve"))
    monkeypatch.setattr(drafts, "check", note("check"))
    monkeypatch.setattr(repository, "combinations", lambda overrides: [f"of {overrides}"])
    monkeypatch.setattr(plan, "load", note("load", STAGES))
    monkeypatch.setattr(runners, "make", note("make", "a runner"))
    monkeypatch.setattr(machines, "shared_commit", note("shared_commit"))
    monkeypatch.setattr(experiments, "reproduce", note("reproduce", state))
    monkeypatch.setattr(experiments, "sweep", note("sweep", state))
    flow = note("repro", state)
    monkeypatch.setattr(graph, "repro", SimpleNamespace(with_options=lambda task_runner: (asked(task_runner), flow)[1]))
    monkeypatch.setattr(boards, "use", lambda board: asked("use", board.where))
    for module in (run, reproduce, sweep):
        monkeypatch.setattr(module, "end_of", lambda flow: flow())
        monkeypatch.setattr(module, "find_root", lambda _: tmp_path)
        monkeypatch.setattr(module, "cores", lambda: 6)
        monkeypatch.setattr(module, "devices", lambda count: ["4", "5"][:count])
    return asked


def test_reproduce_looks_for_the_revision_before_the_server_is_ready(tmp_path: Path, asked: Calls) -> None:
    reproduce.main("v1", ["lora"], None, 1, True, 0.25)
    given = ("v1", str(tmp_path), ["lora"], 6, ["4"], True, 0.25, {"return_state": True})
    assert asked == [
        ("connect", tmp_path),
        ("resolve", tmp_path, "v1"),
        ("ready",),
        ("use", "http://here"),
        ("reproduce", *given),
    ]
    asked.clear()
    reproduce.main("v1", None, 2)
    assert asked[-1] == ("reproduce", "v1", str(tmp_path), [], 2, ["4", "5"], False, 1e-3, {"return_state": True})


def test_sweep_checks_every_combination_before_a_server_starts(tmp_path: Path, asked: Calls) -> None:
    sweep.main(["rank=4,8"], ["lora"], None, 1, "mine")
    given = (["rank=4,8"], str(tmp_path), ["lora"], 6, ["4"], "mine", {"return_state": True})
    combinations = [f"of {['rank=4,8']}"]
    before = [("check", tmp_path, combinations), ("connect", tmp_path), ("ready",), ("use", "http://here")]
    assert asked == [*before, ("sweep", *given)]


def test_run_reads_the_plan_before_the_server_is_ready_and_has_a_place_for_every_slot(
    tmp_path: Path, asked: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.main(["lora"], None, None, True)
    given = (str(tmp_path), ["lora"], 6, ["4", "5"], True, False, {"return_state": True})
    before = [("connect", tmp_path), ("load", tmp_path, ["lora"]), ("make", "threads", 8), ("a runner",), ("ready",)]
    assert asked == [*before, ("use", "http://here"), ("repro", *given)]
    asked.clear()
    run.main(None, 2, 0, pools=True)
    given = (str(tmp_path), [], 2, [], False, True, {"return_state": True})
    assert asked[4:] == [("ready",), ("shared_commit", tmp_path), ("use", "http://here"), ("repro", *given)]


@pytest.mark.parametrize(("message", "said"), [("1 failed", "1 failed"), (None, "the flow ended Crashed")])
def test_a_run_that_is_not_complete_ends_with_its_message(
    message: str | None,
    said: str,
    asked: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = SimpleNamespace(message=message, is_completed=lambda: False, name="Crashed")
    monkeypatch.setattr(run, "end_of", lambda _: state)
    with pytest.raises(typer.Exit) as ended:
        run.main()
    assert (ended.value.exit_code, capsys.readouterr().err) == (1, f"{said}\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pools": True, "force": True}, "--force: has no use with --pools: workers take"),
        ({"pools": True, "runner": "dask"}, "--runner dask: has no use with --pools: workers run the stages"),
    ],
)
def test_what_workers_cannot_do_is_refused(
    given: dict[str, Any], said: str, asked: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "refuse_runner", lambda _: None)
    with pytest.raises(typer.Exit):
        run.main(**given)
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert asked == []


def test_a_dry_run_only_shows_the_plan_its_reasons_and_its_times(
    tmp_path: Path, asked: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(["c"], 2, force=True, dry=True)
    assert asked == [("load", tmp_path, ["c"], {"force": True, "lacking": []})]
    *table, count = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table] == [["stage", "why"], ["b", "x;", "y"], ["c", "after", "b"]]
    assert count == "2 of 3 stages to run, 1 up to date"
    durations.keep(tmp_path, STAGES[1], 90.0)
    run.main(dry=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["b", "1:30", "min", "x;", "y"]
    assert lines[-1] == "about 1:30 min with 6 at once, not counting the 1 never run here"
    durations.keep(tmp_path, STAGES[2], 30.0)
    run.main(dry=True)
    assert capsys.readouterr().out.splitlines()[-1] == "about 2:00 min with 6 at once"


def test_a_dry_run_with_nothing_to_do_shows_no_table(
    asked: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "load", lambda *_, **__: STAGES[:1])
    run.main(dry=True)
    assert capsys.readouterr().out == "0 of 1 stages to run, 1 up to date\n"


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    monkeypatch.setattr(terminal, "note_interrupts", lambda: seen)
    return seen


def ended(error: Exception | None, failed: bool = True) -> Any:
    return SimpleNamespace(is_failed=lambda: failed, result=lambda raise_on_failure: error)


def test_a_flow_ends_with_its_state_or_with_the_error_that_a_user_can_mend(interrupts: list[int]) -> None:
    for state in (ended(None, failed=False), ended(None), ended(ValueError("in a task"))):
        assert terminal.end_of(lambda state=state: state) is state
    with pytest.raises(InputError, match="a: is wrong"):
        terminal.end_of(lambda: ended(InputError("a", "is wrong", "correct it")))
    for error, said in ((ConnectError("refused"), "refused"), (ReadTimeout(""), "ReadTimeout")):
        with pytest.raises(
            InputError, match=rf"it stopped answering while the flow ran \({said}\). Next: run this again"
        ):
            terminal.end_of(lambda error=error: ended(error))


def test_ctrl_c_outweighs_the_error_that_it_caused(interrupts: list[int]) -> None:
    interrupts.append(2)
    for state in (ended(None, failed=False), ended(ConnectError("refused"))):
        with pytest.raises(KeyboardInterrupt):
            terminal.end_of(lambda state=state: state)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("dask", {"cluster_kwargs": {"n_workers": 1, "threads_per_worker": 5, "dashboard_address": None}}),
        ("dask@tcp://host:1", {"address": "tcp://host:1"}),
        ("ray", {"init_kwargs": {"num_cpus": 5, "include_dashboard": False, "log_to_driver": False}}),
        ("ray@host:1", {"address": "host:1"}),
    ],
)
def test_a_runner_has_its_places_or_its_address_and_finds_the_code(
    name: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, package = Calls("made"), ModuleType("package")
    package.DaskTaskRunner = package.RayTaskRunner = made  # type: ignore[attr-defined]
    monkeypatch.setattr(runners, "refuse_runner", lambda _: None)
    monkeypatch.setitem(sys.modules, f"prefect_{name.partition('@')[0]}", package)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    assert runners.make(name, 5) == "made"
    assert made == [(given,)]
    assert os.environ["PYTHONPATH"] == f"{runners.CODE}{os.pathsep}/mine"
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == ("0" if name.startswith("ray") else None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")
    assert isinstance(runners.make("threads", 5), ThreadPoolTaskRunner)
    assert os.environ["PYTHONPATH"].count(str(runners.CODE)) == 1


def test_stages_in_other_processes_are_shown_from_their_files(tmp_path: Path) -> None:
    stages = [Stage(name, name) for name in ("runs", "waits", "not yet", "writing")]
    work = Work(Site(tmp_path, 1), stages, Board())
    work.board.begin(stages)
    for stage, text in zip(stages, ("stage 12", "flow 13", None, ""), strict=True):
        for file in (work.site.holder(stage), work.site.log(stage)):
            file.parent.mkdir(parents=True, exist_ok=True)
        work.site.log(stage).write_text("of an earlier run\n")
        if text is not None:
            work.site.holder(stage).write_text(text)
    looks = iter([False, True])

    def wait(timeout: float) -> bool:
        assert timeout == 5 * POLL
        for stage in stages:
            with work.site.log(stage).open("a") as log:
                log.write(f"of {stage.name}\n")
        return next(looks)

    runners._watch(work, SimpleNamespace(wait=wait))  # type: ignore[arg-type]
    rows = [(row.state, row.text) for row in work.board.rows.values()]
    assert rows == [("running", "of runs"), ("queued", "of waits"), ("waiting", ""), ("waiting", "")]


@pytest.mark.parametrize("busy", [True, False])
def test_a_stopped_run_on_other_processes_waits_two_graces_for_them(
    busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, watched = Clock(), Calls()
    monkeypatch.setattr(runners, "time", clock)
    monkeypatch.setattr(runners, "_watch", watched)
    work = Work(Site(tmp_path, 1), STAGES, Board())
    first = work.stopping
    with runners.attended(work):  # outside of a flow, and on threads, nothing is to be done
        assert work.stopping is first
    monkeypatch.setattr(FlowRunContext, "get", lambda: SimpleNamespace(task_runner=ThreadPoolTaskRunner()))
    with runners.attended(work):
        assert work.stopping is first
    monkeypatch.setattr(FlowRunContext, "get", lambda: SimpleNamespace(task_runner="elsewhere"))
    if busy:
        holder = work.site.holder(STAGES[2])
        holder.parent.mkdir(parents=True)
        holder.touch()
    with pytest.raises(KeyboardInterrupt), runners.attended(work):
        raise KeyboardInterrupt
    assert isinstance(work.stopping, runners.Shared)
    assert work.stopping.is_set()
    assert work.stopping.file.parent == tmp_path / ".scratch/stopping"
    assert work.stopping.file.exists()
    assert (2 * GRACE <= clock.now < 2 * GRACE + 2 * POLL) if busy else clock.now == 0
    ((own, over),) = watched
    assert (own, over.is_set()) == (work, True)
    with runners.attended(work):
        assert not work.stopping.is_set()
    assert not work.stopping.is_set()


@pytest.mark.parametrize(
    ("command", "words", "given"),
    [
        (run, [], ("repro", "ROOT", [], 1, [], False, False)),
        (reproduce, ["v1", "--tolerance", "0"], ("reproduce", "v1", "ROOT", [], 1, [], False, 0.0)),
        (sweep, ["-S", "rank=4"], ("sweep", ["rank=4"], "ROOT", [], 1, [], "sweep")),
    ],
    ids=["run", "reproduce", "sweep"],
)
def test_one_stage_at_once_and_no_gpu_are_taken_and_less_than_that_is_refused(
    command: ModuleType, words: list[str], given: tuple[Any, ...], tmp_path: Path, asked: Calls
) -> None:
    app = typer.Typer()
    app.command()(command.main)
    for wrong in (["--jobs", "0"], ["--gpus", "-1"], ["--tolerance", "-0.1"]):
        assert CliRunner().invoke(app, [*words, *wrong]).exit_code == 2
    assert asked == []
    assert CliRunner().invoke(app, [*words, "--jobs", "1", "--gpus", "0"]).exit_code == 0
    assert asked[-1] == (*(str(tmp_path) if part == "ROOT" else part for part in given), {"return_state": True})


def test_what_a_dry_run_says_below_its_table_is_a_line_each_and_no_mark_up(
    asked: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Stage("b", "b", ("a",), why=("x" * 100,))

    def load(*_: object, lacking: list[str], **__: object) -> list[Stage]:
        lacking += ["pictures/[red]fox", "models/" + "x" * 100]
        return [STAGES[0], long, STAGES[2]]

    large = ["lora:build does not fit. Next: write `recompute: true` " + "[bold]" * 20]
    monkeypatch.setattr(plan, "load", load)
    monkeypatch.setattr("flows.memory.needs", lambda *_: SimpleNamespace(told={"c": "55.0 GB"}, lines=large))
    run.main(dry=True)
    *table, count, missing, memory = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table] == [
        ["stage", "memory", "why"],
        ["b", "x" * 100],
        ["c", "55.0", "GB", "after", "b"],
    ]
    assert count == "2 of 3 stages to run, 1 up to date"
    assert missing.startswith(f"pictures/[red]fox, models/{'x' * 100}: are missing, and no stage makes them. Next: run")
    assert memory == large[0]


@pytest.mark.parametrize(
    ("command", "given", "fault", "stopped"),
    [
        (run, (), 1, "stopped: the next run goes on from here"),
        (sweep, (["rank=4"],), 1, "stopped: what was finished is kept, and the next sweep finds it"),
        (reproduce, ("v1",), 2, "stopped"),  # 1 says that something differs
    ],
    ids=["run", "sweep", "reproduce"],
)
def test_a_command_ends_with_a_line_and_a_code_for_a_fault_and_for_ctrl_c(
    command: Any,
    given: tuple[Any, ...],
    fault: int,
    stopped: str,
    asked: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for error, code, line in (
        (InputError("v1", "is wrong", "correct it"), fault, "error: v1: is wrong. Next: correct it."),
        (KeyboardInterrupt(), 130, stopped),
    ):

        def fail(_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(command, "find_root", fail)
        with pytest.raises(typer.Exit) as ended:
            command.main(*given)
        assert (ended.value.exit_code, capsys.readouterr().err) == (code, f"{line}\n")
    assert asked == []
