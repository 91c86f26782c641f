"""Serving flows, and the lines to print meanwhile: runs that begin and end, and errors of the server.

Importing this imports Prefect.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.states import Cancelled

from etude.core.errors import InputError
from flows.board import duration
from flows.stage import Tail
from flows.terminal import describe

Look: TypeAlias = Callable[[], Iterator[str]]
OVERTAKEN = "a later one was due before this could begin"
LOOK = 2.0  # seconds between two looks
BEGUN: list[StateType] = [kind for kind in StateType if kind not in (StateType.SCHEDULED, StateType.PENDING)]
ENTRY = re.compile(r"\d\d:\d\d:\d\d\.\d+ \| (?P<level>\w+) *\| (?P<text>.*)|(?P<plain>ERROR|CRITICAL):? +(?P<said>.*)")
CAUSE = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Group)\b.*")  # how a traceback ends


class Runs:
    """The runs of some deployments, by their names, from now on. Times are shown in `zone`."""

    def __init__(self, names: dict[UUID, str], zone: str) -> None:
        self.names, self.zone, self.begin = names, ZoneInfo(zone), datetime.now(UTC)
        self._told: dict[UUID, StateType] = {}

    def look(self) -> Iterator[str]:
        """A line for each run that began or ended since the last look. Raises HTTPError without a server."""
        ours = DeploymentFilter(id=DeploymentFilterId(any_=list(self.names)))
        order = FlowRunSort.EXPECTED_START_TIME_DESC
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=in_states(BEGUN), deployment_filter=ours, sort=order, limit=50)
            if any(run.state and run.state.is_running() for run in runs):
                _give_up_overtaken(client, ours)
        for run in reversed(runs):
            state = run.state
            if not state or state.timestamp < self.begin or self._told.get(run.id) == state.type:
                continue
            self._told[run.id] = state.type
            if state.message != OVERTAKEN:
                yield self._line(run)

    def _line(self, run: FlowRun) -> str:
        assert run.state
        at = run.state.timestamp.astimezone(self.zone)
        head = f"{at:%Y-%m-%d %H:%M:%S} {self.names.get(run.deployment_id or run.id, '')}:"
        if run.state.is_running():
            return f"{head} began"
        took = f" in {duration(run.total_run_time.total_seconds())}" if run.state.is_final() else ""
        said = f": {run.state.message}" if run.state.message else ""
        return f"{head} {(run.state.name or run.state.type.value).lower()}{took}{said}"


def in_states(kinds: list[StateType], **more: Any) -> FlowRunFilter:
    """The runs that are in one of these states."""
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds)), **more)


def _give_up_overtaken(client: SyncPrefectClient, ours: DeploymentFilter) -> None:
    """Cancel all but the last waiting run of each deployment: several may become due while one run is active."""
    now: Any = datetime.now(UTC)
    due = FlowRunFilterNextScheduledStartTime(before_=now)
    waiting = in_states([StateType.SCHEDULED], next_scheduled_start_time=due)
    order = FlowRunSort.EXPECTED_START_TIME_DESC
    last: set[UUID | None] = set()
    for run in client.read_flow_runs(flow_run_filter=waiting, deployment_filter=ours, sort=order):
        if run.deployment_id in last:
            client.set_flow_run_state(run.id, Cancelled(message=OVERTAKEN))
        last.add(run.deployment_id)


class Reports:
    """The errors in the log of the repository's own server. Each is reported once: a failing service repeats them."""

    def __init__(self, log: Path) -> None:
        self.log, self._tail = log, Tail(log, 0)
        self._lines: list[str] = []
        self._told: set[str] = set()

    def look(self) -> Iterator[str]:
        """One line for each error logged since the last look."""
        fresh: list[str] = []
        self._tail.follow(lambda kind, text: fresh.append(text) if kind == "line" else None)
        lines, self._lines = self._lines + fresh, []
        if fresh:  # the last entry may be incomplete
            last = max((number for number, line in enumerate(lines) if ENTRY.match(line)), default=0)
            lines, self._lines = lines[:last], lines[last:]
        for text in errors(lines):
            if (alike := re.sub(r"\d+", "0", text)) not in self._told:  # equal but for numbers such as a time
                self._told.add(alike)
                yield f"the Prefect server reports an error: {text}. All of it is in {self.log}"


def errors(lines: Sequence[str]) -> Iterator[str]:
    """The errors among the lines of a log, each with the end of its traceback."""
    text, cause = "", ""
    for line in [*lines, "00:00:00.000 | END | "]:
        if entry := ENTRY.match(line):
            if text:
                yield f"{text}: {cause}".removesuffix(": ")
            bad = entry["plain"] or entry["level"] in ("ERROR", "CRITICAL")
            text, cause = (entry["text"] or entry["said"] or "").strip() if bad else "", ""
        elif CAUSE.match(line):
            cause = line


class Serving(Runner):
    """Prefect's runner of served flows, one at a time, stopped by SIGTERM as by Ctrl-C."""

    def __init__(self) -> None:
        super().__init__(limit=1)  # they share the checkout
        self.lost = False

    def handle_sigterm(self, *_: Any, **__: Any) -> None:
        """Handle SIGTERM as Ctrl-C: Prefect's own handler does not wait until the runner has ended."""
        signal.raise_signal(signal.SIGINT)

    def add(self, deployment: RunnerDeployment) -> UUID:
        """Let the server schedule a deployment, and run what it schedules; returns the deployment's id."""
        return cast("UUID", self.add_deployment(deployment))

    def serve(self, looks: Sequence[Look], tell: Callable[[str], None], lives: Callable[[], bool]) -> None:
        """Run what is due until Ctrl-C, and pass the looks' lines to `tell`. Raises InputError if the server ends."""
        over = Event()
        watching = Thread(target=self._watch, args=(looks, tell, lives, over), daemon=True)
        try:
            watching.start()  # in `try`: if Ctrl-C comes now, the thread must still end, or Python would not
            asyncio.run(self.start())
        except KeyboardInterrupt:
            if not self.lost:
                raise
            fault = "it ended, and with it the runs that were active"
            raise InputError(
                "the Prefect server", fault, "run `etude serve` again; the end of server.log may show why"
            ) from None
        finally:
            over.set()
            if watching.is_alive():
                watching.join()

    def _watch(
        self, looks: Sequence[Look], tell: Callable[[str], None], lives: Callable[[], bool], over: Event
    ) -> None:
        away = False
        while not over.wait(LOOK):
            try:
                for line in chain(*(look() for look in looks)):
                    tell(line)
            except HTTPError as error:
                if not lives():
                    self.lost, self.pause_on_shutdown = True, False
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                if not away:
                    tell(f"the Prefect server does not answer ({describe(error)}): runs wait for it")
                away = True
            else:
                if away:
                    tell("the Prefect server answers again")
                away = False
