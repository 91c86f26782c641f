"""Flows over other states of the repository than the one that lies here. Importing this imports Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import plan, verdict
from flows.board import Board
from flows.graph import BOARD, carry_out
from flows.stage import Site
from flows.verdict import Run, Verdict
from flows.work import Work
from flows.worktree import worktree


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
    with worktree(root, revision, fresh=force) as tree:
        before = Run(verdict.read_locks(tree), plan.cache_folder(root))
        site = Site(tree, jobs, gpus, force, root / ".scratch" / "slots")
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
