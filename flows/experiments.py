"""Flows over other states of the repository than the one in this folder. Importing this imports Prefect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from etude.core.errors import InputError
from flows import artifacts, comparison, plan, repository, verdict
from flows.board import Board, current
from flows.comparison import Result, Trial
from flows.graph import Futures, carry_out, settle, shown, submit
from flows.stage import Site
from flows.verdict import Run, Verdict
from flows.work import Work
from flows.worktree import edits_of, keep, resolve, worktree

Done: TypeAlias = Callable[[Trial, Result], None]


@flow(name="reproduce", validate_parameters=False)
def reproduce(
    revision: str,
    root: str | Path = ".",
    targets: Sequence[str] = (),
    jobs: int = 1,
    gpus: Sequence[str] = (),
    force: bool = False,
    tolerance: float = 1e-3,
) -> State[Any]:
    """Run a revision's pipeline again in a folder of its own, and compare every output with what was recorded.

    With `force` everything is computed again: nothing is taken from DVC's run-cache. Metrics may differ by
    `tolerance`, relative. Ends Completed when all outputs are the same, else Failed; the message names what differs.
    """
    root = Path(root).resolve()
    with worktree(root, revision, fresh=force) as (tree, lock):
        before = Run(verdict.read_locks(tree), repository.cache_folder(root))
        site = Site(tree, jobs, gpus, force, root, [lock])
        stages = [replace(stage, title=revision) for stage in plan.load(tree, targets, force=force)]
        work = Work(site, stages, current())
        carry_out(work)
        after = Run(verdict.read_locks(tree), repository.cache_folder(tree))
        done = {stage.name: stage.label for stage in stages if stage.name in work.outcomes}
        verdicts = verdict.judge(before, after, done, tolerance)
        environment = verdict.environments(before, after)
    lost = [stage.label for stage in stages if stage.name not in work.outcomes]
    verdicts += [Verdict(label, "", verdict.MISSING) for label in lost]
    table = [{"stage": v.stage, "output": v.path, "verdict": v.verdict, "what": "; ".join(v.details)} for v in verdicts]
    create_table_artifact(table=table, key="reproduction", description=artifacts.plain(revision))
    texts = [_summary(revision, verdicts, environment), *[work.verdict()] * bool(lost)]
    same = verdicts and {v.verdict for v in verdicts} <= {verdict.IDENTICAL, verdict.CLOSE}
    return (Completed if same else Failed)(message="\n".join(texts))


def _summary(revision: str, verdicts: Sequence[Verdict], environment: Sequence[str]) -> str:
    """Every output that is not identical, what differs about the machine, and the count."""
    lines = []
    for v in verdicts:
        if v.verdict != verdict.IDENTICAL or v.details:
            details = f": {'; '.join(v.details)}" if v.details else ""
            lines.append(f"{v.verdict}  {v.stage}  {v.path}{details}")
    if environment:
        lines.append(f"made in another environment: {'; '.join(environment)}")
    found = [v.verdict for v in verdicts]
    counts = ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(found)) or "nothing was recorded"
    return "\n".join([*lines, f"{revision}: {counts}"])


@flow(name="sweep", validate_parameters=False)
def sweep(
    overrides: Sequence[str],
    root: str | Path = ".",
    targets: Sequence[str] = (),
    jobs: int = 1,
    gpus: Sequence[str] = (),
    name: str = "sweep",
) -> State[None]:
    """Run every combination of some parameter values (DVC's `-S` syntax) as an experiment of its own, side by side.

    Each runs in a folder of its own on the present commit with the present edits, and becomes a DVC experiment; a stage
    that several combinations share runs once. The message names the experiments and a page that compares them.
    """
    root = Path(root).resolve()
    trials = [Trial(title, values, targets) for title, values in titled(repository.combinations(overrides)).items()]
    found: dict[str, Result] = {}
    try_all(root, trials, jobs, gpus, lambda trial, result: found.update({trial.title: result}), name)
    results = [found[trial.title] for trial in trials]
    page = comparison.write(root, name, results)
    table = [{"experiment": r.name, **r.metrics} for r in results]
    create_table_artifact(table=table, key="sweep", description=artifacts.plain(name))
    faults = [f"{result.name}: {result.fault}" for result in results if result.fault]
    kept = [result.name for result in results if not result.fault]
    texts = [*faults, f"{len(kept)} experiments kept: {', '.join(kept)}", f"compared in {page.relative_to(root)}"]
    return (Failed if faults else Completed)(message="\n".join(texts))


@task(cache_policy=NO_CACHE, persist_result=False)
def keep_experiment(root: Path, work: Work, futures: Futures, name: str, saved: bool) -> Result:
    """Wait for the stages of one combination, read its results, and save it as an experiment."""
    settle(work, futures)
    if not work.complete():
        return Result(name, fault=work.verdict())
    tree = work.site.root
    metrics = {f"{s.label} {key}": value for s in work.stages for key, value in artifacts.numbers(tree, s).items()}
    drawn = {path: file for stage in work.stages for path, file in artifacts.pictures(tree, stage).items()}
    if saved:
        try:
            keep(root, tree, name, [stage.name for stage in work.stages])
        except InputError as error:  # the others can still be kept
            return Result(name, fault=str(error))
    return Result(name, metrics, {path: artifacts.data_uri(artifacts.thumbnail(file)) for path, file in drawn.items()})


def try_all(root: Path, trials: Sequence[Trial], jobs: int, gpus: Sequence[str], done: Done, name: str = "") -> None:
    """Run trials in worktrees of their own, one more than `jobs` at once; `done` is called for each as soon as it ends.

    All start from the present commit with the present edits. The next trial is prepared while others run; stages of one
    recipe run once. With a `name` the trials are kept as DVC experiments whose names begin with it.
    """
    board = current()
    state = resolve(root, "HEAD"), edits_of(root)
    works: list[Work] = []
    same: Futures = {}
    running: dict[PrefectFuture[Result], tuple[Trial, ExitStack]] = {}
    with ExitStack() as stack, shown(board, works):
        for trial in trials:
            while len(running) > jobs:
                _tell_next(running, done)
            tree = stack.enter_context(ExitStack())
            work = _open(state, trial, Site(root, jobs, gpus), board, tree)
            works.append(work)
            futures = submit(work, same)
            todo = keep_experiment.with_options(name=f"keep {trial.title}", task_run_name=f"keep {trial.title}")
            waited = quote(futures)  # the task itself waits for them, so that it also reports failed ones
            title = f"{name}-{trial.title}".lstrip("-")
            kept = todo.submit(root, work, waited, title, bool(name))  # type: ignore[call-overload]
            running[kept] = trial, tree
        while running:
            _tell_next(running, done)


def _open(state: tuple[str, bytes], trial: Trial, home: Site, board: Board, stack: ExitStack) -> Work:
    """Make the worktree of a trial, which lasts until `stack` is closed; returns the work to do there."""
    commit, edits = state
    tree, lock = stack.enter_context(worktree(home.root, commit, edits=edits))
    repository.override(tree, trial.values)
    stages = [replace(stage, title=trial.title) for stage in plan.load(tree, trial.targets)]
    board.add(stages)
    return Work(Site(tree, home.jobs, home.gpus, home=home.root, held=[lock]), stages, board)


def _tell_next(running: dict[PrefectFuture[Result], tuple[Trial, ExitStack]], done: Done) -> None:
    """Wait for one of the trials; report it, and clear its worktree."""
    future = next(as_completed(list(running)))
    trial, tree = running.pop(future)
    with tree:
        done(trial, future.result())


def titled(combinations: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, Mapping[str, Sequence[str]]]:
    """Combinations of values by name, as `rank-8-rate-0.001`; names that would be equal get a number at the end.

    A minus sign stays: `-S shift=-1,1` gives `shift--1` and `shift-1`.
    """
    found: dict[str, Mapping[str, Sequence[str]]] = {}
    for values in combinations:
        pairs = [text.lstrip("+~").partition("=") for texts in values.values() for text in texts]
        words = " ".join(f"{key.rpartition('.')[2]}-{value}" for key, _, value in pairs)
        title = re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.")
        names = chain([title], (f"{title}-{number}" for number in count(2)))
        found[next(name for name in names if name not in found)] = values
    return found
