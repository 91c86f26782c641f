"""What a person sees while stages run: a live table in a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import RLock

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.plan import Stage

NEWS_EVERY = 30.0  # seconds between two lines about a running stage, if there is no live table
OUTCOMES = ("up to date", "unchanged", "restored", "adopted", "ran")  # how a stage that did not fail can end
ACTIVE = ("running", "running elsewhere", "waiting for another dvc")
BAD = ("failed", "skipped", "stopped")
STYLES = dict.fromkeys(ACTIVE, "bold cyan") | {
    "ran": "green",
    "restored": "green",
    "adopted": "green",
    "unchanged": "dim green",
    "up to date": "dim green",
    "failed": "bold red",
    "skipped": "yellow",
    "stopped": "yellow",
}


@dataclass
class Row:
    """One stage: `since` is when it entered its state, `seconds` what it took once that is known."""

    stage: Stage
    state: str = "waiting"
    since: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    text: str = ""
    told: float = 0.0

    @property
    def rank(self) -> int:
        """A sort key: what is shown first where the terminal is too small for all stages."""
        if self.state in (*ACTIVE, "failed"):
            return 0
        return {"waiting": 2, "queued": 1, "skipped": 3, "up to date": 4}.get(self.state, 2)


class Board:
    """The states of a run's stages; `where` is the address of Prefect's UI. Without a console it only counts."""

    def __init__(self, console: Console | None = None, where: str = "") -> None:
        self.console, self.where, self.rows = console, where, dict[str, Row]()
        self._start, self._guard = time.monotonic(), RLock()
        self._live: Live | None = None

    def begin(self, stages: Iterable[Stage]) -> None:
        """Show these stages, all waiting."""
        self.rows = {}
        self.add(stages)
        if self.console and self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4, redirect_stdout=False)
            self._live.start()
        elif self.where:
            self.note(f"watch at {self.where}")

    def add(self, stages: Iterable[Stage]) -> None:
        """Show these stages too, waiting."""
        with self._guard:
            self.rows |= {stage.shown: Row(stage) for stage in stages}

    def state(self, stage: Stage, state: str, seconds: float | None = None) -> None:
        """A stage entered another state; for a final state, `seconds` is how long the stage took."""
        with self._guard:
            row = self.rows[stage.shown]
            if state == row.state or row.state in OUTCOMES:
                return
            now = time.monotonic()
            if seconds is None and row.state in ACTIVE and state not in ACTIVE:
                seconds = now - row.since
            row.state, row.since, row.told, row.seconds = state, now, now, seconds
            if not self._live and state not in ("waiting", "queued"):
                because = f" ({'; '.join(stage.why)})" if state == "running" and stage.why else ""
                self.note(f"{stage.shown}: {state}{because}{'' if seconds is None else f' in {duration(seconds)}'}")

    def text(self, stage: Stage, text: str) -> None:
        """The last line of a stage's log, complete or not, is now this one."""
        with self._guard:
            row = self.rows[stage.shown]
            row.text = text.strip() or row.text
            if not self._live and text.strip() and time.monotonic() - row.told > NEWS_EVERY:
                row.told = time.monotonic()
                self.note(f"{stage.shown}: {duration(row.told - row.since)}: {row.text}")

    def end(self) -> None:
        """End the display: stages that still wait were never started."""
        if self._live:
            self._live.stop()
            self._live = None

    def __rich__(self) -> RenderableType:
        """The table as it is now, cut to the terminal's height: first what runs or failed, then what waits."""
        with self._guard:
            room = (self.console.height if self.console else 40) - 3
            ranked = sorted(range(len(self.rows)), key=lambda index: list(self.rows.values())[index].rank)[:room]
            table = Table.grid(padding=(0, 2), expand=True)
            for ratio, justify in ((None, "left"), (None, "left"), (None, "right"), (1, "left")):
                table.add_column(ratio=ratio, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
            for index in sorted(ranked):
                table.add_row(*_cells(list(self.rows.values())[index]))
            return Group(table, Text(self._summary(), style="dim", no_wrap=True, overflow="ellipsis"))

    def _summary(self) -> str:
        states = [row.state for row in self.rows.values()]
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        took = duration(time.monotonic() - self._start)
        return " · ".join([*counts, took, *[self.where] * bool(self.where)])

    def note(self, line: str) -> None:
        """Print a text that stays above the table."""
        if self.console:
            self.console.print(Text(line), soft_wrap=True)


_BOARD: ContextVar[Board | None] = ContextVar("board", default=None)  # not a parameter of flows: Prefect stores those


def use(board: Board) -> None:
    """Let the flows of this thread show their stages on a board."""
    _BOARD.set(board)


def current() -> Board:
    """The board in use, or one that nobody sees."""
    return _BOARD.get() or Board()


def _cells(row: Row) -> tuple[Text, ...]:
    seconds = time.monotonic() - row.since if row.state in ACTIVE else row.seconds
    style = STYLES.get(row.state, "dim")
    took = "" if seconds is None else duration(seconds)
    text = row.text if row.state in (*ACTIVE, "failed") else ""
    return Text(row.stage.shown), Text(row.state, style), Text(took), Text(text, "dim")


def duration(seconds: float) -> str:
    """Seconds in readable form: `3.2 s`, `1:05 min`, `2:03:10 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
