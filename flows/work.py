"""One run over the graph: its stages, how each one ended, and what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, TypeAlias

from flows import durations
from flows.board import OUTCOMES, Board
from flows.plan import Stage
from flows.slots import StoppedError
from flows.stage import Site, StageError, Tell, run

Carry: TypeAlias = Callable[[Stage, Site, Tell, Event, float], str]


class Clock:
    """The time of a stage since it last began to run, without waiting; or the time that its machine measured."""

    def __init__(self) -> None:
        self._state, self._since = "", time.monotonic()
        self._measured: float | None = None

    def hear(self, kind: str, text: str) -> None:
        """Take a report of the stage. A stage may report the same state several times."""
        if kind == "seconds":
            self._measured = float(text)
        elif kind == "state" and text != self._state:
            self._state = text
            if text == "running":
                self._since, self._measured = time.monotonic(), None

    @property
    def seconds(self) -> float:
        """The time so far, or the total."""
        return time.monotonic() - self._since if self._measured is None else self._measured


class Work:
    """What the tasks of one run share. Setting `stopping` ends every process of it.

    `carry` is the function that brings a stage up to date: `flows.stage.run` here, or one that lets a worker do it.
    `outcomes` and `faults` are those of stages that have ended; `busy` names the stages that run. A copy in another
    process shows nothing on the board.
    """

    def __init__(self, site: Site, stages: Sequence[Stage], board: Board, carry: Carry = run) -> None:
        self.site, self.stages, self.board, self.carry = site, stages, board, carry
        self.stopping = Event()
        self.outcomes: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.busy: set[str] = set()
        self.attempts: Counter[str] = Counter()
        self.urgency = durations.urgency(stages, durations.recall_all(site.root, stages))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"board": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, board=Board())
        self.board.begin(self.stages)

    def do(self, stage: Stage, before: Sequence[str], log: Callable[[str], None]) -> str:
        """Bring one stage up to date, with a process only if something can have changed; `log` gets the lines.

        `before` are the outcomes of the stages that it depends on. Returns one of OUTCOMES.
        Raises StageError or StoppedError.
        """
        if not stage.why and all(outcome == "up to date" for outcome in before):
            self.board.state(stage, "up to date")
            return "up to date"
        clock = Clock()

        def tell(kind: str, text: str) -> None:
            clock.hear(kind, text)
            if kind != "seconds":
                (self.board.state if kind == "state" else self.board.text)(stage, text)
            if kind == "line" and text:
                log(text)

        self.attempts[stage.name] += 1
        self.busy.add(stage.name)  # before reading `stopping`: the code that sets it then waits for all busy stages
        try:
            if self.stopping.is_set():
                raise StoppedError
            outcome = self.carry(stage, self.site, tell, self.stopping, self.urgency[stage.name])
        except StoppedError:
            self.board.state(stage, "stopped")
            raise
        except (StageError, OSError):
            self._failed(stage, clock.seconds)
            raise
        finally:
            self.busy.discard(stage.name)
        seconds = clock.seconds
        if outcome == "ran":
            durations.keep(self.site.root, stage, seconds)
        self.board.state(stage, outcome, seconds)
        return outcome

    def note(self, stage: Stage, outcome: str = "", fault: str = "") -> None:
        """Record that a stage is over, with its outcome or fault; with neither, it was never started."""
        if outcome:
            self.outcomes[stage.name] = outcome
        elif fault:
            self.faults[stage.name] = fault
        self.board.state(stage, outcome or ("failed" if fault else "skipped"))

    def verdict(self) -> str:
        """The number of stages for each outcome; if some failed, their labels and faults."""
        if self.faults:
            labels = [stage.label for stage in self.stages if stage.name in self.faults]
            undone = len(self.stages) - len(self.outcomes) - len(labels)
            skipped = f", {undone} that depend on it not begun" if undone else ""
            head = f"{len(labels)} of {len(self.stages)} stages failed: {', '.join(labels)}{skipped}."
            return "\n\n".join([head, *self.faults.values()])
        if not self.complete():
            return f"{len(self.stages) - len(self.outcomes)} of {len(self.stages)} stages not begun"
        counts = Counter(self.outcomes.values())
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]) or "nothing to do"

    def complete(self) -> bool:
        """Whether every stage is up to date now."""
        return len(self.outcomes) == len(self.stages)

    def _failed(self, stage: Stage, seconds: float) -> None:
        self.board.state(stage, "failed", seconds)
        if self.attempts[stage.name] <= stage.retries:
            return
        lost = {stage.name}
        for other in self.stages:
            if lost & set(other.upstream):
                lost.add(other.name)
                self.board.state(other, "skipped")
