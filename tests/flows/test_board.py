"""What is said and shown of stages while they run."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from threading import Thread

import pytest
from rich.console import Console

from flows import board as board_module
from flows.board import Board, current, duration, use
from flows.plan import Stage
from tests.flows.conftest import Clock

STAGES = [Stage(f"s{number}", f"s{number}") for number in range(3)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.now = 1000.0
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def made(where: str = "") -> tuple[Board, io.StringIO]:
    """A board that writes lines, as into a log."""
    text = io.StringIO()
    return Board(Console(file=text, width=200), where), text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"), (3.24, "3.2 s"), (59.94, "59.9 s"), (60, "1:00 min"), (65.4, "1:05 min"),
        (3599.4, "59:59 min"), (3599.6, "1:00:00 h"), (3600, "1:00:00 h"), (7390, "2:03:10 h"), (90061, "25:01:01 h"),
    ],
)  # fmt: skip
def test_a_duration_is_short_and_rounded(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_each_change_of_a_stage_is_one_line_with_its_reason_and_how_long_it_took(clock: Clock) -> None:
    board, text = made("http://there")
    stage = Stage("a", "lora:build", why=("rank (4 → 8)", "code"), title="trial")
    board.begin([stage])
    board.state(stage, "queued")
    board.state(stage, "running")
    clock.now += 61
    board.state(stage, "running")
    board.state(stage, "ran")
    board.state(stage, "failed")  # what has ended stays so
    board.end()
    assert text.getvalue().splitlines() == [
        "watch at http://there",
        "trial lora:build: running (rank (4 → 8); code)",
        "trial lora:build: ran in 1:01 min",
    ]


def test_a_time_that_is_told_counts_and_one_that_never_ran_has_none(clock: Clock) -> None:
    board, text = made()
    board.begin(STAGES)
    board.state(STAGES[0], "running")
    clock.now += 5
    board.state(STAGES[0], "restored", 2.5)
    board.state(STAGES[1], "skipped")
    board.state(STAGES[2], "running elsewhere")
    clock.now += 5
    board.state(STAGES[2], "running")  # from one at work to another: no time yet
    assert text.getvalue().splitlines() == [
        "s0: running",
        "s0: restored in 2.5 s",
        "s1: skipped",
        "s2: running elsewhere",
        "s2: running",
    ]


def test_a_stage_that_runs_long_gives_a_sign_of_life_now_and_then(clock: Clock) -> None:
    board, text = made()
    board.begin(STAGES)
    board.state(STAGES[0], "running")
    for seconds, line in (
        (1, "step 1"),
        (29, "step 2"),
        (0.5, " step 3 "),
        (29.9, "step 4"),
        (0.2, "  "),
        (0.1, "step 5"),
    ):
        clock.now += seconds
        board.text(STAGES[0], line)
    assert text.getvalue().splitlines() == ["s0: running", "s0: 30.5 s: step 3", "s0: 1:01 min: step 5"]
    assert board.rows["s0"].text == "step 5"


def test_where_the_terminal_is_small_what_runs_or_failed_is_shown_in_the_order_of_the_graph(clock: Clock) -> None:
    stages = [Stage(f"stage{number}", f"stage{number}") for number in range(6)]
    console = Console(file=io.StringIO(), width=100, height=7, force_terminal=True)
    board = Board(console, "http://there")
    board.rows = {}
    board.add(stages)
    states = ("up to date", "failed", "waiting", "skipped", "queued", "running")
    for stage, state in zip(stages, states, strict=True):
        board.rows[stage.shown].state = state
    board.rows["stage1"].text, board.rows["stage4"].text = "no such file", "not shown"
    clock.now += 90
    with console.capture() as captured:
        console.print(board, no_wrap=True)
    shown = captured.get()
    assert re.findall(r"stage\d", shown) == ["stage1", "stage2", "stage4", "stage5"]
    assert "no such file" in shown
    assert "not shown" not in shown
    assert "1 up to date · 1 failed · 1 waiting · 1 skipped · 1 queued · 1 running · 1:30 min · http://there" in shown


def test_stages_are_shown_on_the_board_in_use_and_else_on_one_that_nobody_sees() -> None:
    token = board_module._BOARD.set(None)
    try:
        assert current().console is None
        board, _ = made()
        use(board)
        assert current() is board
    finally:
        board_module._BOARD.reset(token)


def test_what_a_stage_has_come_to_is_not_changed_by_a_late_report(clock: Clock) -> None:
    board, text = made()
    board.begin(STAGES)
    for outcome in ("up to date", "unchanged", "restored", "adopted", "ran"):
        board.rows["s0"].state = outcome
        board.state(STAGES[0], "running")
        assert board.rows["s0"].state == outcome
    board.state(STAGES[1], "failed")
    board.state(STAGES[1], "running")  # it is tried again
    assert text.getvalue().splitlines() == ["s1: failed", "s1: running"]


def test_a_live_table_is_shown_in_a_terminal_until_the_end_and_lines_elsewhere() -> None:
    text = io.StringIO()
    board = Board(Console(file=text, width=80, height=20, force_terminal=True), "http://there")
    board.begin(STAGES[:1])
    live = board._live
    assert live
    board.state(STAGES[0], "running")
    board.text(STAGES[0], "step 1")
    board.end()
    assert (board._live, live.is_started) == (None, False)
    assert "watch at" not in text.getvalue()
    assert "s0: running" not in text.getvalue()
    assert "step 1" in text.getvalue()
    board.end()
    silent = Board()
    silent.begin(STAGES)
    silent.add([Stage("more", "more")])
    assert (silent._live, list(silent.rows)) == (None, ["s0", "s1", "s2", "more"])
    silent.begin(STAGES[:1])
    assert list(silent.rows) == ["s0"]


def test_the_time_of_a_row_goes_on_while_it_is_at_work_and_its_text_is_shown_then(clock: Clock) -> None:
    board, _ = made()
    board.begin(STAGES)
    board.rows["s0"].text = board.rows["s1"].text = "step 1"
    board.state(STAGES[0], "running")
    clock.now += 5
    board.state(STAGES[1], "ran", 3.0)
    cells = [[cell.plain for cell in board_module._cells(row)] for row in board.rows.values()]
    assert cells == [["s0", "running", "5.0 s", "step 1"], ["s1", "ran", "3.0 s", ""], ["s2", "waiting", "", ""]]
    assert board_module._cells(board.rows["s0"])[1].style == board_module.STYLES["running"]
    assert board_module._cells(board.rows["s2"])[1].style == "dim"


def test_what_matters_most_is_ranked_first() -> None:
    busy = ("failed", "running", "running elsewhere", "waiting for another dvc")
    states = (*busy, "queued", "waiting", "ran", "skipped", "up to date")
    rows = [board_module.Row(STAGES[0], state) for state in states]
    assert [row.rank for row in rows] == [0, 0, 0, 0, 1, 2, 2, 3, 4]


def test_a_table_keeps_each_stage_on_one_line_however_narrow_the_terminal_is(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=30, height=6, force_terminal=True)
    board = Board(console, "http://there/with/a/long/address")
    board.add(STAGES)
    board.state(STAGES[0], "running")
    board.text(STAGES[0], "a long line of a log that does not fit")
    with console.capture() as captured:
        console.print(board)
    lines = captured.get().splitlines()
    assert len(lines) == 4
    assert "…" in lines[0]
    assert "…" in lines[3]


def test_a_line_that_is_longer_than_the_terminal_stays_one_line_and_is_no_mark_up() -> None:
    board, text = made()
    board.note("[red]" + "x " * 300)
    assert text.getvalue() == "[red]" + "x " * 300 + "\n"


@pytest.mark.parametrize(
    "report",
    [
        lambda board: board.add([Stage("more", "more")]),
        lambda board: board.state(STAGES[0], "running"),
        lambda board: board.text(STAGES[0], "step 1"),
        lambda board: board.__rich__(),
    ],
    ids=["add", "state", "text", "show"],
)
def test_a_board_is_changed_and_shown_by_one_thread_at_a_time(report: Callable[[Board], object]) -> None:
    board = Board()
    board.begin(STAGES)
    thread = Thread(target=report, args=[board], daemon=True)
    with board._guard:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join()
