"""DVC's graph as a Prefect flow: one task a stage. Importing this imports Prefect."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed

from flows import artifacts, machines, plan
from flows.board import Board
from flows.plan import Stage
from flows.server import PAGES
from flows.stage import Site, run
from flows.work import Work

RETRY_AFTER = 2.0  # seconds
BOARD: ContextVar[Board | None] = ContextVar("board", default=None)  # no parameter: those are stored with the run
Futures: TypeAlias = dict[str, PrefectFuture[Any]]


@flow(name="repro", validate_parameters=False)
def repro(
    root: str | Path = ".",
    targets: Sequence[str] = (),
    jobs: int = 1,
    gpus: Sequence[str] = (),
    force: bool = False,
    pools: bool = False,
) -> State[None]:
    """Bring stages and what they depend on up to date, independent ones at once.

    `targets` as in `plan.load`; `jobs` stages at once, of which those that ask for a GPU have one of `gpus` each.
    With `pools` the workers of Prefect's work pools run the stages, and what they made is brought here.
    Ends Failed, naming what failed and why, when a stage did; everything that does not depend on it is done then.
    """
    site = Site(Path(root).resolve(), jobs, gpus, force)
    stages = plan.load(site.root, targets, force=force)
    work = Work(site, stages, BOARD.get() or Board(), machines.carrier(site.root, stages) if pools else run)
    todo = plan.pending(work.stages)
    if todo:
        artifacts.publish_plan(todo, len(work.stages))
    carry_out(work)
    if pools:
        machines.collect(site.root, [stage.name for stage in stages if stage.name in work.outcomes and stage.why])
    if todo:
        artifacts.publish_outcome([(row.stage.shown, row.state, row.seconds) for row in work.board.rows.values()])
    return (Completed if work.complete() else Failed)(message=work.verdict())


@task(cache_policy=NO_CACHE, persist_result=False)
def bring_up_to_date(stage: Stage, work: Work) -> State[None]:
    """One stage: a process of `dvc repro`, unless nothing can have changed. The state is named after the outcome."""
    logger = get_run_logger()
    outcome = work.do(stage, logger.info)
    if outcome in ("ran", "restored", "adopted"):
        pages = None if stage.title else os.environ.get(PAGES)
        try:
            artifacts.publish(work.site.root, stage, pages)
        except (OSError, ValueError) as error:  # a picture or a number that cannot be read is not the flow's to judge
            logger.warning("not shown: %s", error)
    return Completed(name=outcome.title().replace(" ", ""), message="; ".join(stage.why) or None)


def carry_out(work: Work) -> None:
    """Run all stages of a work to their end, showing them on its board."""
    with shown(work.board, [work]):
        settle(work, submit(work, {}))


@contextmanager
def shown(board: Board, works: Sequence[Work]) -> Iterator[None]:
    """Show the stages of some works while they run; leaving on an error or a signal ends all their processes."""
    board.begin([stage for work in works for stage in work.stages])
    try:
        yield
    except BaseException:
        for work in works:
            work.stopping.set()
        raise
    finally:
        board.end()


def submit(work: Work, same: Futures) -> Futures:
    """Hand the stages of a work to Prefect. Of stages of one recipe, in `same` from other works, only one is run first:

    the others find its result in DVC's run-cache.
    """
    futures: Futures = {}
    for stage in work.stages:
        todo = bring_up_to_date.with_options(
            name=stage.shown,
            task_run_name=stage.shown,
            retries=stage.retries,
            retry_delay_seconds=RETRY_AFTER,
            retry_condition_fn=lambda *_: not work.stopping.is_set(),
        )
        before = [futures[name] for name in stage.upstream] + [same[key] for key in [stage.recipe] if key in same]
        futures[stage.name] = todo.submit(stage, work, wait_for=before)  # type: ignore[call-overload]
        same.setdefault(stage.recipe, futures[stage.name])
    return futures


def settle(work: Work, futures: Futures) -> None:
    """Wait for the stages of a work, and note those that were never begun or ended in a way nobody foresaw."""
    wait(list(futures.values()))
    for name, future in futures.items():
        if (future.state.is_failed() or future.state.is_crashed()) and name not in work.faults:
            work.faults[name] = f"{name}: {future.state.message}"
    for stage in work.stages:
        if stage.name not in work.outcomes and stage.name not in work.faults:
            work.board.state(stage, "skipped")
