"""The same graph on other task runners than threads: `dask` and `ray`, for processes that share this checkout.

Tasks of these runners run in other processes. The flow reads the states of running tasks from the files that every
stage has in the checkout, and stops the tasks by a file too. Importing this imports Prefect.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.plan import Stage
from flows.process import POLL
from flows.stage import GRACE, Tail
from flows.terminal import refuse_runner
from flows.work import Work

CODE = Path(__file__).parent.parent


def make(name: str, most: int) -> TaskRunner[Any]:
    """The task runner `threads`, `dask` or `ray`; `dask@tcp://host:8786` uses a running cluster.

    At most `most` tasks run at once. Raises InputError as `refuse_runner` does.
    """
    refuse_runner(name)
    kind, _, address = name.partition("@")
    if kind == "threads":
        return ThreadPoolTaskRunner()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
    if kind == "dask":
        from prefect_dask import DaskTaskRunner as Runner

        own = {"cluster_kwargs": {"n_workers": 1, "threads_per_worker": most, "dashboard_address": None}}
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from prefect_ray import RayTaskRunner as Runner

        own = {"init_kwargs": {"num_cpus": most, "include_dashboard": False, "log_to_driver": False}}
    runner: TaskRunner[Any] = Runner(address=address) if address else Runner(**own)
    return runner


class Shared(Event):
    """An Event whose copies in other processes are set with it, through a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __reduce__(self) -> tuple[type[Shared], tuple[Path]]:
        return Shared, (self.file,)

    def set(self) -> None:
        """Set this event everywhere."""
        if not super().is_set():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()
            super().set()

    def is_set(self) -> bool:
        """Whether this event was set anywhere."""
        return super().is_set() or self.file.exists()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this event is set here; returns whether it is set anywhere by then."""
        return super().wait(timeout) or self.file.exists()


@contextmanager
def attended(work: Work) -> Iterator[None]:
    """Show the states of a work's stages if the flow's tasks run in other processes.

    An error or a signal ends the stages; it returns only when none of their processes is left. The file that stops
    the tasks stays in `.scratch`: a task that begins later, while its cluster ends, must still find it.
    """
    context = FlowRunContext.get()
    if context is None or isinstance(context.task_runner, ThreadPoolTaskRunner):
        yield
        return
    root, over = work.site.root, Event()
    work.stopping = stop = Shared(root / ".scratch" / "stopping" / uuid4().hex)
    watch = Thread(target=_watch, args=(work, over), daemon=True)
    watch.start()
    try:
        yield
    except BaseException:
        stop.set()
        end = time.monotonic() + 2 * GRACE
        while any(work.site.holder(stage).exists() for stage in work.stages) and time.monotonic() < end:
            time.sleep(POLL)
        raise
    finally:
        over.set()
        watch.join()


def _watch(work: Work, over: Event) -> None:
    logs = {stage: work.site.log(stage) for stage in work.stages}
    tails = {stage: Tail(log, log.stat().st_size if log.exists() else 0) for stage, log in logs.items()}
    while not over.wait(5 * POLL):
        for stage, tail in tails.items():
            with suppress(FileNotFoundError, ValueError):  # the stage has not begun, or is over
                kind, _ = work.site.holder(stage).read_text().split()
                work.board.state(stage, "running" if kind == "stage" else "queued")
                tail.follow(partial(_show, work, stage))


def _show(work: Work, stage: Stage, kind: str, text: str) -> None:
    del kind
    work.board.text(stage, text)
