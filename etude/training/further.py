"""Whether a run goes on from the saved state of an earlier one: one that was stopped, or ended with fewer steps.

The state of a run is in a folder that is the same for every number of steps (`tasks.build`). Nothing of a state depends
on that number, unless the learning rate does.
"""

from __future__ import annotations

from typing import Any

from etude.training.plan import Optimization
from etude.training.report import CONSOLE, Report


def usable_state(report: Report, plan: Optimization) -> dict[str, Any] | None:
    """The state from which a run of ``plan.steps`` steps ends with the same bits as one without interruption.

    None if there is no such state. If a state exists but cannot be used, the reason is printed.
    """
    state = report.restore()
    obstacle = _obstacle(state, report.finished, plan)
    if obstacle is None:
        return state
    report.history = []
    if obstacle:
        CONSOLE.print(f"starts from scratch: {obstacle}", highlight=False)
    return None


def _obstacle(state: dict[str, Any] | None, finished: int, plan: Optimization) -> str | None:
    """Why a run cannot go on; None if it can. "" prints nothing: it had ended after the same number of steps."""
    before = finished or (state or {}).get("steps", plan.steps)
    if before == plan.steps:
        return "" if finished else None
    if plan.schedule != "constant":
        return f"`schedule: {plan.schedule}` depends on `steps`, which was {before} and is {plan.steps}"
    if state is None:
        return None
    done = state["step"]
    if done > plan.steps:
        return f"the saved state is that of step {done}, and `steps` is {plan.steps}"
    if plan.ema and state["averaged"] == done and done % plan.ema_every and done % plan.checkpoint_every:
        return f"the average has step {done}, the last one before, which `ema_every` {plan.ema_every} leaves out"
    return None
