"""DVC's graph as a Prefect flow: one task a stage. Importing this imports Prefect."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from httpx import HTTPError
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed

from flows import artifacts, machines, plan, runners
from flows.board import Board, current
from flows.plan import Stage
from flows.process import POLL
from flows.server import PAGES
from flows.stage import GRACE, Site, StageError, run
from flows.terminal import describe
from flows.work import Work

RETRY_AFTER = 2.0  # seconds
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

    `targets` are those of `plan.load`. At most `jobs` stages run at once; a GPU stage gets one of `gpus` for itself, a
    build one for each of its processes.
    With `pools` the workers of Prefect's work pools run the stages, and their results are brought here.
    If a stage fails, all that does not depend on it still runs; then the flow ends Failed, with what failed and why.
    """
    site = Site(Path(root).resolve(), jobs, gpus, force)
    stages = plan.load(site.root, targets, force=force)
    work = Work(site, stages, current(), machines.carrier(site.root, stages) if pools else run)
    todo = plan.pending(work.stages)
    if todo:
        artifacts.publish_plan(todo, len(work.stages))
    carry_out(work)
    if pools:
        machines.collect(site.root, [stage.name for stage in todo if stage.name in work.outcomes])
    if todo:
        artifacts.publish_outcome([(row.stage.shown, row.state, row.seconds) for row in work.board.rows.values()])
    return (Completed if work.complete() else Failed)(message=work.verdict())


@task(cache_policy=NO_CACHE, persist_result=False)
def bring_up_to_date(stage: Stage, work: Work, before: Sequence[str]) -> State[str]:
    """Run one stage as a process of `dvc repro`, unless nothing can have changed. The state has the outcome's name."""
    logger = get_run_logger()
    outcome = work.do(stage, before, logger.info)
    if outcome in ("ran", "restored", "adopted"):
        pages = None if stage.title else os.environ.get(PAGES)
        try:
            artifacts.publish(work.site.root, stage, pages)
        except (OSError, ValueError, HTTPError) as error:  # the outputs are there, even if they cannot be shown
            logger.warning("%s: its outputs are missing on Prefect's pages (%s)", stage.label, describe(error))
    return Completed(name=outcome.title().replace(" ", ""), message="; ".join(stage.why) or None, data=outcome)


def carry_out(work: Work) -> None:
    """Run all stages of a work to their end, and show them on its board."""
    with shown(work.board, [work]), runners.attended(work):
        settle(work, submit(work, {}))


@contextmanager
def shown(board: Board, works: Sequence[Work]) -> Iterator[None]:
    """Show the stages of some works while they run; an error or a signal ends all their processes.

    It returns only when these have ended: the caller may delete their folder next.
    """
    board.begin([stage for work in works for stage in work.stages])
    try:
        yield
    except BaseException:
        for work in works:
            work.stopping.set()
        end = time.monotonic() + 2 * GRACE
        while any(work.busy for work in works) and time.monotonic() < end:
            time.sleep(POLL)
        raise
    finally:
        board.end()


def submit(work: Work, same: Futures) -> Futures:
    """Hand the stages of a work to Prefect.

    Of stages with the same recipe one runs first, and the others find its result in DVC's run-cache. `same` holds
    that first one by recipe, also from other works.
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
        before = [futures[name] for name in stage.upstream]
        first = [same[key] for key in [stage.recipe] if key in same]
        futures[stage.name] = todo.submit(stage, work, before, wait_for=first)  # type: ignore[call-overload]
        same.setdefault(stage.recipe, futures[stage.name])
    return futures


def settle(work: Work, futures: Futures) -> None:
    """Wait for the stages of a work, and record how each one ended: done, failed, or never started."""
    stages = {futures[stage.name]: stage for stage in work.stages}
    for future in as_completed(list(stages)):
        future.wait()
        state, stage = future.state, stages[future]
        if state.is_completed():
            work.note(stage, outcome=future.result())
        elif state.is_failed() or state.is_crashed():
            error = future.result(raise_on_failure=False)
            own = isinstance(error, StageError)
            work.note(
                stage, fault=str(error) if own else f"{stage.label}: {describe(error) if error else state.message}"
            )
        else:
            work.note(stage)
