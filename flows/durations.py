"""How long stages took here last time: for estimates only, forgotten when `.scratch` is deleted."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from flows.plan import Stage


def keep(root: Path, stage: Stage, seconds: float) -> None:
    """Store how long a stage took; a disk that cannot be written to is ignored."""
    file = _file(root, stage)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{seconds:.1f}")


def recall_all(root: Path, stages: Iterable[Stage]) -> dict[str, float]:
    """How many seconds each stage took here, by name, for the stages that ever ran here."""
    return {stage.name: seconds for stage in stages if (seconds := recall(root, stage)) is not None}


def recall(root: Path, stage: Stage) -> float | None:
    """How long a stage took the last time it ran here, in seconds; None when it never ran here."""
    try:
        return float(_file(root, stage).read_text())
    except (FileNotFoundError, ValueError):
        return None


def urgency(stages: Sequence[Stage], seconds: dict[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of the longest chain after it; a stage without time counts 1."""
    chain: dict[str, float] = {stage.name: 0.0 for stage in stages}
    for stage in reversed(stages):
        chain[stage.name] += seconds.get(stage.name, 1.0)
        for name in stage.upstream:
            chain[name] = max(chain[name], chain[stage.name])
    return chain


def estimate(stages: Sequence[Stage], seconds: dict[str, float], jobs: int) -> float:
    """Estimate how long `stages` (upstream first) take with `jobs` at once; a stage that `seconds` lacks counts 0."""
    done: dict[str, float] = {}
    free = [0.0] * jobs
    for stage in stages:
        ready = max((done[name] for name in stage.upstream), default=0.0)
        if not seconds.get(stage.name):
            done[stage.name] = ready
            continue
        done[stage.name] = max(ready, heapq.heappop(free)) + seconds[stage.name]
        heapq.heappush(free, done[stage.name])
    return max(done.values(), default=0.0)


def _file(root: Path, stage: Stage) -> Path:
    return root / ".scratch" / "seconds" / stage.slug
