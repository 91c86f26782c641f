"""The flows that run by themselves, and Prefect's deployments of them. Importing this imports Prefect."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, Interval
from prefect.states import Completed, Failed
from prefect.types.entrypoint import EntrypointType

from etude.core.errors import InputError
from etude.core.params import read_yaml
from etude.core.workers import cores
from etude.project import params_files
from flows import graph, settings
from flows.experiments import reproduce
from flows.settings import NEVER, Settings
from flows.terminal import devices
from flows.worktree import git


@flow(name="nightly", validate_parameters=False)
def nightly(root: str | Path = ".", jobs: int = 0) -> State[Any]:
    """Bring all that `dvc repro` reaches up to date."""
    return repro_here(Path(root).resolve(), jobs)


@flow(name="changed", validate_parameters=False)
def changed(root: str | Path = ".", jobs: int = 0) -> State[Any]:
    """The same as `nightly`, if a picture or a parameter changed since this last ran to its end, failed or not."""
    root = Path(root).resolve()
    record, now = root / ".scratch" / "fingerprint", fingerprint(root)
    if record.exists() and record.read_text() == now:
        return Completed(message="no picture and no parameter changed")
    state = repro_here(root, jobs)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(now)  # from before the run, so that the next look notices changes during it
    return state


@flow(name="weekly", validate_parameters=False)
def weekly(root: str | Path = ".", jobs: int = 0, force: bool = False, tolerance: float = 1e-3) -> State[Any]:
    """Run the last tag again elsewhere, and compare every output with what was recorded."""
    root = Path(root).resolve()
    given = {"jobs": jobs or cores(), "gpus": devices(None), "force": force, "tolerance": tolerance}
    return own(reproduce(last_tag(root), str(root), return_state=True, **given))


def repro_here(root: Path, jobs: int) -> State[Any]:
    """Run the flow `repro` over all that the root reaches."""
    return own(graph.repro(str(root), (), jobs or cores(), devices(None), return_state=True))


def own(state: State[Any]) -> State[Any]:
    """A subflow's final state as the state of the flow that ran it; without this its message would be lost."""
    return (Completed if state.is_completed() else Failed)(message=state.message)


def last_tag(root: Path) -> str:
    """The tag nearest to the present commit. Raises InputError where there is none."""
    if tag := git(root, "describe", "--tags", "--abbrev=0", check=False):
        return tag
    raise InputError(root, "no tag is on the present commit or one before it", "tag a run to reproduce: `git tag v1`")


def fingerprint(root: Path) -> str:
    """A digest of all params files, and of the pictures of the image sets by name, size and time of change."""
    digest = hashlib.sha256()
    for file in params_files(root):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    for folder in sorted(read_yaml(root / "params.yaml").get("sets", {}).values()):
        for file in sorted((root / folder).rglob("*")):
            facts = file.stat()
            digest.update(f"{file.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def deployments(root: Path, given: Settings) -> Sequence[RunnerDeployment]:
    """One deployment for each schedule that is not "". Raises InputError on a wrong cron."""
    common = {"root": str(root), "jobs": given.jobs}
    made: list[RunnerDeployment] = []
    try:
        for todo, cron in ((nightly, given.nightly.cron), (weekly, given.weekly.cron)):
            own = {"force": given.weekly.force, "tolerance": given.weekly.tolerance} if todo is weekly else {}
            if cron != NEVER:
                made.append(_deployment(todo, Cron(cron, timezone=given.time_zone), common | own))
    except ValueError as error:
        raise InputError(
            str(settings.FILE),
            f"Prefect cannot read cron {cron!r}",
            "write five fields, as '0 2 * * *'; see `man 5 crontab`",
        ) from error
    if given.changed.interval != NEVER:
        every = timedelta(seconds=settings.seconds(given.changed.interval))
        made.append(_deployment(changed, Interval(every, timezone=given.time_zone), common))
    return made


def _deployment(todo: Any, schedule: Any, parameters: dict[str, Any]) -> RunnerDeployment:
    return RunnerDeployment.from_flow(
        todo, "here", schedule=schedule, parameters=parameters, entrypoint_type=EntrypointType.MODULE_PATH
    )
