"""Stages on other machines: Prefect's work pools start them there, DVC's remote carries their inputs and outputs.

A worker has a clone of its own. For each stage it makes a worktree of the commit, takes what the stage needs from the
shared remote, runs it, and pushes what it made with its entry in DVC's run-cache. Others find the result by that entry:
no lock file is sent. Importing this imports Prefect.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from httpx import HTTPError
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.runtime import flow_run
from prefect.states import Cancelling, Completed, Crashed, Failed
from prefect.types.entrypoint import EntrypointType
from prefect.variables import Variable

from etude.core.errors import InputError
from flows import plan, repository
from flows.plan import Stage
from flows.process import POLL
from flows.slots import StoppedError
from flows.stage import Site, StageError, Tell, run
from flows.terminal import describe
from flows.worktree import dvc, git, worktree

POOLS = ("cpu", "gpu")  # a stage goes to the pool that has the name of its resource
CLONE, JOBS, GPUS = "ETUDE_CLONE", "ETUDE_JOBS", "ETUDE_GPUS"  # environment variables from a worker to its flows
BEAT = 5.0  # seconds between two signs of life of a stage
LOST = 12 * BEAT  # seconds of silence after which the machine of a stage counts as lost
MACHINES = 3  # how often a stage's worker or the server may be lost before the stage has failed
LIVING = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


@flow(name="stage", validate_parameters=False)
def carry_out(commit: str, target: str) -> State[Any]:
    """On a worker: bring one stage of a commit up to date and push it. The state's message is the outcome or fault."""
    if CLONE not in os.environ:
        return Failed(message=f"the worker on {os.uname().nodename} has no clone: start it with `etude worker`")
    clone, jobs = Path(os.environ[CLONE]), int(os.environ[JOBS])
    gpus = [device for device in os.environ[GPUS].split(",") if device]
    try:
        with pulse() as tell:  # pushing large results may take longer than LOST
            fetch(clone, commit)
            with worktree(clone, commit, inputs=False) as (tree, lock):
                (stage,) = (one for one in plan.load(tree, [target]) if one.name == target)
                site = Site(tree, jobs, gpus, home=clone, held=[lock], pull=True)
                outcome = run(stage, site, tell, Event())
                push(tree, [target])
    except (StageError, InputError) as error:
        return Failed(message=f"{error}\n    on {os.uname().nodename}")
    return Completed(message=outcome)


def fetch(clone: Path, commit: str) -> None:
    """Fetch a commit into a clone, if it is not there. Raises InputError where the clone's origin lacks it."""
    if not git(clone, "cat-file", "-t", commit, check=False):
        git(clone, "fetch", "--quiet", "origin")
    if not git(clone, "cat-file", "-t", commit, check=False):
        raise InputError(commit[:10], "this commit is not in the origin of the worker's clone", "`git push` it")


def push(root: Path, targets: list[str]) -> None:
    """Push outputs and the run-cache to the shared remote. Raises InputError where that fails."""
    done = dvc(root, "push", "--quiet", "--run-cache", *targets)
    if done.returncode:
        fault = f"`dvc push` says: {done.stderr.strip()}"
        raise InputError("the DVC remote", fault, "check that this machine can write to it, then run the flow again")


@contextmanager
def pulse() -> Iterator[Tell]:
    """Show that this flow is alive, and the last line of its stage, for as long as the block runs."""
    over, last, name = Event(), [""], beat_of(str(flow_run.id))
    logger = get_run_logger()

    def beat() -> None:
        number = 0
        while not over.wait(BEAT if number else 0):
            number += 1
            Variable.set(name, {"beat": number, "line": last[0][-200:], "host": os.uname().nodename}, overwrite=True)

    def tell(kind: str, text: str) -> None:
        if kind != "state":
            last[0] = text.strip() or last[0]
        if kind == "line" and text:
            logger.info(text)

    heart = Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield tell
    finally:
        over.set()
        heart.join()
        Variable.unset(name)


def beat_of(run_id: str) -> str:
    """The Prefect variable in which a flow run shows that it is alive."""
    return f"alive_{run_id.replace('-', '_')}"


def carrier(root: Path, stages: Sequence[Stage]) -> Callable[[Stage, Site, Tell, Event, float], str]:
    """A function like `flows.stage.run` that lets a worker run the stage.

    Raises InputError where workers could not do the same as this checkout.
    """
    commit = shared_commit(root)
    share(root, stages)
    make_pools()

    def send(stage: Stage, site: Site, tell: Tell, stopping: Event, urgency: float) -> str:
        del site, urgency  # the worker has a site of its own, and Prefect's queue has an order of its own
        if stage.name.endswith(".dvc"):
            return "unchanged"  # an input: workers pull it from the remote
        fault = ""
        for _ in range(MACHINES):
            tell("state", "queued")
            try:
                state = follow(_begin(stage, commit), tell, stopping)
            except HTTPError as error:  # the worker continues, and is found in the next try
                fault = f"the Prefect server does not answer ({describe(error)})"
                if stopping.wait(BEAT):
                    raise StoppedError from error
                continue
            if state is None:
                fault = "its worker stopped without an answer"
            elif state.is_completed():
                return str(state.message)
            else:
                raise StageError(state.message or f"{stage.label} ended {state.name}")
        action = "see whether the server and the workers run, then run the flow again: what is finished is kept"
        raise StageError(f"{stage.label}: {MACHINES} tries failed; in the last, {fault}. Next: {action}.")

    return send


def follow(run: FlowRun, tell: Tell, stopping: Event) -> State[Any] | None:
    """Wait for a stage that a worker runs; returns its final state, or None if the worker is lost."""
    with get_client(sync_client=True) as client:
        seen, heard = None, time.monotonic()
        while True:
            now = client.read_flow_run(run.id)
            state = now.state
            if state is not None and state.is_final():
                tell("seconds", str(now.total_run_time.total_seconds()))  # a short stage was never seen running here
                return None if state.is_crashed() else state
            if stopping.wait(POLL * 10):
                client.set_flow_run_state(run.id, Cancelling())
                raise StoppedError
            if state is None or not state.is_running():
                heard = time.monotonic()
                continue
            tell("state", "running")
            beat: Any = Variable.get(beat_of(str(run.id)))
            if beat != seen:
                seen, heard = beat, time.monotonic()
                tell("glimpse", f"{beat['host']}: {beat['line']}" if beat else "")
            if time.monotonic() - heard > LOST:
                client.set_flow_run_state(run.id, Crashed(message="its worker is silent"))
                heard = time.monotonic()


def _begin(stage: Stage, commit: str) -> FlowRun:
    """The flow run of a stage at a commit: one that runs already, perhaps started by another flow, or a new one."""
    tags = [f"commit {commit}", f"stage {stage.name}"]
    with get_client(sync_client=True) as client:
        same = FlowRunFilter(
            tags=FlowRunFilterTags(all_=tags),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=LIVING)),
        )
        if runs := client.read_flow_runs(flow_run_filter=same, limit=1):
            return runs[0]
    return run_deployment(  # type: ignore[return-value, unused-ignore]
        f"stage/{stage.resource}",
        parameters={"commit": commit, "target": stage.name},
        flow_run_name=stage.label,
        tags=tags,
        timeout=0,
        as_subflow=False,
    )


def make_pools() -> None:
    """Make the work pools and the deployments in them, where the server does not have them yet."""
    with get_client(sync_client=True) as client:
        for name in POOLS:
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    for name in POOLS:
        made: Any = RunnerDeployment.from_flow(
            carry_out, name, work_pool_name=name, entrypoint_type=EntrypointType.MODULE_PATH
        )
        made.apply()


def shared_commit(root: Path) -> str:
    """The commit that workers run. Raises InputError for uncommitted changes, and where the origin lacks the commit."""
    plain = git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    names = [name for line in plain if Path(name := line[2:].strip().split(" -> ")[-1]).name != "dvc.lock"]
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise InputError(shown, "not committed, so workers would not have it", "commit and push it, or `git stash -u`")
    commit = git(root, "rev-parse", "HEAD")
    if not git(root, "branch", "--remotes", "--contains", commit, check=False):
        raise InputError(commit[:10], "no remote branch has this commit, so no worker can fetch it", "`git push` it")
    return commit


def share(root: Path, stages: Sequence[Stage]) -> None:
    """Push what is up to date here to the shared remote, so that no worker makes it again.

    Raises InputError without a remote that keeps run-caches, and on an input that changed without a commit.
    """
    remote = repository.remote(root)
    if not remote or remote.startswith("http"):
        fault = f"{remote} cannot keep a run-cache" if remote else "is not set, and workers share results by it"
        raise InputError(
            "the DVC remote",
            fault,
            "set it to a bucket, an ssh server or a folder: `dvc remote add --default NAME URL`",
        )
    for stage in stages:
        if stage.name.endswith(".dvc") and any(why.endswith("modified") for why in stage.why):
            raise InputError(stage.outs[0], "changed and not committed", f"`dvc add {stage.outs[0]}`, and commit it")
    if done := [stage.name for stage in stages if not stage.why and stage.outs]:
        push(root, done)


def collect(root: Path, done: list[str]) -> None:
    """Pull what workers made into this checkout, and write the entries in dvc.lock."""
    got = dvc(root, "repro", "--quiet", "--pull", *done) if done else None
    if got and got.returncode:
        raise InputError(root, f"`dvc repro --pull` says: {got.stderr.strip()}", "run the flow again")
