"""Flows over other states of the repository than the one that lies here. Importing this imports Prefect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from flows import artifacts, comparison, plan, verdict
from flows.board import Board
from flows.comparison import Result
from flows.graph import BOARD, Futures, carry_out, settle, shown, submit
from flows.stage import Site
from flows.verdict import Run, Verdict
from flows.work import Work
from flows.worktree import keep, worktree


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
    `tolerance`, relative. Ends Completed when all outputs are the same, else Failed; the message tells.
    """
    root = Path(root).resolve()
    with worktree(root, revision, fresh=force) as (tree, lock):
        before = Run(verdict.read_locks(tree), plan.cache_folder(root))
        site = Site(tree, jobs, gpus, force, root, [lock])
        stages = [replace(stage, title=revision) for stage in plan.load(tree, targets, force=force)]
        work = Work(site, stages, BOARD.get() or Board())
        carry_out(work)
        after = Run(verdict.read_locks(tree), plan.cache_folder(tree))
        done = {stage.name: stage.label for stage in stages if stage.name in work.outcomes}
        verdicts = verdict.judge(before, after, done, tolerance)
        environment = verdict.environments(before, after)
    lost = [stage.label for stage in stages if stage.name not in work.outcomes]
    verdicts += [Verdict(label, "", verdict.MISSING) for label in lost]
    table = [{"stage": v.stage, "output": v.path, "verdict": v.verdict, "what": "; ".join(v.details)} for v in verdicts]
    create_table_artifact(table=table, key="reproduction", description=revision)
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

    Each runs in a folder of its own on the present commit with the present edits, and becomes a DVC experiment; stages
    that several have in common run once. The message names the experiments and a page that compares them.
    """
    root = Path(root).resolve()
    board = BOARD.get() or Board()
    with ExitStack() as stack:
        works = {}
        for values in plan.combinations(overrides):
            tree, lock = stack.enter_context(worktree(root, "HEAD", edited=True))
            plan.override(tree, values)
            site = Site(tree, jobs, gpus, home=root, held=[lock])
            title = title_of(values)
            works[title] = Work(site, [replace(stage, title=title) for stage in plan.load(tree, targets)], board)
        with shown(board, list(works.values())):
            results = _try_all(root, works, name)
        page = comparison.write(root, name, results)
    create_table_artifact(table=[{"experiment": r.name, **r.metrics} for r in results], key="sweep", description=name)
    faults = [f"{result.name}: {result.fault}" for result in results if result.fault]
    kept = [result.name for result in results if not result.fault]
    texts = [*faults, f"{len(kept)} experiments kept: {', '.join(kept)}", f"compared in {page.relative_to(root)}"]
    return (Failed if faults else Completed)(message="\n".join(texts))


@task(cache_policy=NO_CACHE, persist_result=False)
def keep_experiment(root: Path, work: Work, futures: Futures, name: str) -> Result:
    """Wait for the stages of one combination; save it as an experiment and read off what it came to."""
    settle(work, futures)
    if not work.complete():
        return Result(name, fault=work.verdict())
    tree = work.site.root
    keep(root, tree, name)
    metrics = {f"{s.label} {key}": value for s in work.stages for key, value in artifacts.numbers(tree, s).items()}
    drawn = {path: file for stage in work.stages for path, file in artifacts.pictures(tree, stage).items()}
    return Result(name, metrics, {path: artifacts.thumbnail(file) for path, file in drawn.items()})


def _try_all(root: Path, works: dict[str, Work], name: str) -> list[Result]:
    same: Futures = {}
    kept = []
    for title, work in works.items():
        futures = submit(work, same)
        todo = keep_experiment.with_options(name=f"keep {title}", task_run_name=f"keep {title}")
        waited = quote(futures)  # the task itself waits for them, so that it also tells when some fail
        kept.append(todo.submit(root, work, waited, f"{name}-{title}"))  # type: ignore[call-overload]
    wait(kept)
    return [future.result() for future in kept]


def title_of(values: Mapping[str, Sequence[str]]) -> str:
    """A name for a combination of values: `rank-8-rate-0.001`."""
    pairs = [text.lstrip("+~").partition("=") for texts in values.values() for text in texts]
    words = " ".join(f"{key.rpartition('.')[2]} {value}" for key, _, value in pairs)
    return re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-.")
