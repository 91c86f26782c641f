"""DVC's graph as a Prefect flow: one task a stage. Importing this imports Prefect."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from logging import Logger, LoggerAdapter
from pathlib import Path
from threading import Event
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed

from flows import artifacts, durations, plan
from flows.board import Board
from flows.plan import Stage
from flows.server import PAGES
from flows.slots import StoppedError
from flows.stage import Site, StageError, run

RETRY_AFTER = 2.0  # seconds
STATES = {
    "up to date": "UpToDate",
    "unchanged": "Unchanged",
    "restored": "Restored",
    "adopted": "Adopted",
    "ran": "Ran",
}  # how a stage ended, and the name of the task's state in Prefect
BOARD: ContextVar[Board | None] = ContextVar("board", default=None)  # no parameter: those are stored with the run


class Work:
    """One run over the graph: what its tasks share."""

    def __init__(self, site: Site, stages: Sequence[Stage], board: Board, title: str = "") -> None:
        self.site, self.stages, self.board, self.title = site, stages, board, title
        self.stopping = Event()
        self.outcomes: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.attempts: Counter[str] = Counter()
        self.urgency = durations.urgency(stages, durations.recall_all(site.root, stages))

    def do(self, stage: Stage, logger: Logger | LoggerAdapter[Any]) -> str:
        """Bring one stage up to date. Raises StageError or StoppedError."""
        if not stage.why and all(self.outcomes[name] == "up to date" for name in stage.upstream):
            return self._over(stage, "up to date")

        start = time.monotonic()

        def tell(kind: str, text: str) -> None:
            nonlocal start
            if text == "running" and kind == "state":
                start = time.monotonic()  # waiting for a slot is not the stage's doing
            if kind == "state":
                self.board.state(stage, text)
            else:
                self.board.text(stage, text)
            if kind == "line" and text:
                logger.info(text)

        self.attempts[stage.name] += 1
        try:
            outcome = run(stage, self.site, tell, self.stopping, self.urgency[stage.name])
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


@task(cache_policy=NO_CACHE, persist_result=False)
def bring_up_to_date(stage: Stage, work: Work) -> State[None]:
    """One stage: a process of `dvc repro`, unless nothing can have changed."""
    logger = get_run_logger()
    outcome = work.do(stage, logger)
    if outcome in ("ran", "restored", "adopted"):
        try:
            artifacts.publish(work.site.root, stage, work.title, os.environ.get(PAGES, ""))
        except (OSError, ValueError) as error:  # a picture or a number that cannot be read is not the flow's to judge
            logger.warning("not shown: %s", error)
    return Completed(name=STATES[outcome], message="; ".join(stage.why) or None)


@flow(name="repro", validate_parameters=False)
def repro(
    root: str | Path = ".",
    targets: Sequence[str] = (),
    jobs: int = 1,
    gpus: Sequence[str] = (),
    force: bool = False,
    slots: str | None = None,
    title: str = "",
) -> State[None]:
    """Bring stages and what they depend on up to date, independent ones at once.

    `targets` as in `plan.load`; `jobs` stages at once, of which those that ask for a GPU have one of `gpus` each.
    A run elsewhere than in the user's checkout shares its `slots`, and has a `title` that its artifacts are named by.
    Ends Failed, naming what failed and why, when a stage did; everything that does not depend on it is done then.
    """
    site = Site(Path(root).resolve(), jobs, gpus, force, Path(slots) if slots else None)
    stages = plan.load(site.root, targets, force=force)
    work = Work(site, stages, BOARD.get() or Board(), title)
    work.board.begin(stages)
    todo = plan.pending(stages)
    if todo and not title:
        artifacts.publish_plan(todo, len(stages))
    try:
        _carry_out(work)
    except BaseException:
        work.stopping.set()
        raise
    finally:
        work.board.end()
    if todo and not title:
        artifacts.publish_outcome([(row.label, row.state, row.seconds) for row in work.board.rows.values()])
    if work.faults:
        return Failed(message="\n\n".join([_verdict(work), *work.faults.values()]))
    return Completed(message=_verdict(work))


def _carry_out(work: Work) -> None:
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in work.stages:
        todo = bring_up_to_date.with_options(
            name=stage.label,
            task_run_name=stage.label,
            retries=stage.retries,
            retry_delay_seconds=RETRY_AFTER,
            retry_condition_fn=lambda *_: not work.stopping.is_set(),
        )
        first = [futures[name] for name in stage.upstream]
        futures[stage.name] = todo.submit(stage, work, wait_for=first)  # type: ignore[call-overload]
    wait(list(futures.values()))
    for name, future in futures.items():
        if (future.state.is_failed() or future.state.is_crashed()) and name not in work.faults:
            work.faults[name] = f"{name}: {future.state.message}"


def _verdict(work: Work) -> str:
    if work.faults:
        labels = [stage.label for stage in work.stages if stage.name in work.faults]
        undone = len(work.stages) - len(work.outcomes) - len(labels)
        skipped = f", {undone} that depend on it not begun" if undone else ""
        return f"{len(labels)} of {len(work.stages)} stages failed: {', '.join(labels)}{skipped}."
    counts = Counter(work.outcomes.values())
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in STATES if counts[outcome]) or "nothing to do"
