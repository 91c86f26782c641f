"""One run over the graph: which stages there are, how each one ended, and what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event
from typing import TypeAlias

from flows import durations
from flows.board import Board
from flows.plan import Stage
from flows.slots import StoppedError
from flows.stage import Site, StageError, Tell, run

OUTCOMES = ("up to date", "unchanged", "restored", "adopted", "ran")  # how a stage that did not fail can end

Carry: TypeAlias = Callable[[Stage, Site, Tell, Event, float], str]


class Work:
    """What the tasks of one run share. Setting `stopping` ends every process of it.

    `carry` is what brings a stage up to date: `flows.stage.run` here, or something that has it done elsewhere.
    """

    def __init__(self, site: Site, stages: Sequence[Stage], board: Board, carry: Carry = run) -> None:
        self.site, self.stages, self.board, self.carry = site, stages, board, carry
        self.stopping = Event()
        self.outcomes: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.attempts: Counter[str] = Counter()
        self.urgency = durations.urgency(stages, durations.recall_all(site.root, stages))

    def do(self, stage: Stage, log: Callable[[str], None]) -> str:
        """Bring one stage up to date, with a process only where something can have changed; `log` gets its lines.

        Returns one of OUTCOMES. Raises StageError or StoppedError.
        """
        if not stage.why and all(self.outcomes[name] == "up to date" for name in stage.upstream):
            return self._over(stage, "up to date")
        start = time.monotonic()

        def tell(kind: str, text: str) -> None:
            nonlocal start
            if (kind, text) == ("state", "running"):
                start = time.monotonic()  # waiting for a slot is not the stage's doing
            (self.board.state if kind == "state" else self.board.text)(stage, text)
            if kind == "line" and text:
                log(text)

        self.attempts[stage.name] += 1
        try:
            outcome = self.carry(stage, self.site, tell, self.stopping, self.urgency[stage.name])
        except StoppedError:
            self.board.state(stage, "stopped")
            raise
        except (StageError, OSError) as error:
            self._failed(stage, str(error), time.monotonic() - start)
            raise
        seconds = time.monotonic() - start
        if outcome == "ran":
            durations.keep(self.site.root, stage, seconds)
        return self._over(stage, outcome, seconds)

    def verdict(self) -> str:
        """How many stages ended how; where some failed, which, and what each had to say."""
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

    def _over(self, stage: Stage, outcome: str, seconds: float | None = None) -> str:
        self.outcomes[stage.name] = outcome
        self.faults.pop(stage.name, None)
        self.board.state(stage, outcome, seconds)
        return outcome

    def _failed(self, stage: Stage, fault: str, seconds: float) -> None:
        self.faults[stage.name] = fault
        self.board.state(stage, "failed", seconds)
        if self.attempts[stage.name] <= stage.retries:
            return
        lost = {stage.name}
        for other in self.stages:
            if lost & set(other.upstream):
                lost.add(other.name)
                self.board.state(other, "skipped")
