"""The watch over one stage while it runs: no other process works on the stage, and its inputs do not change.

`tasks.shell.run` starts it around every stage. It is imported by name, so that no stage depends on it: it does not
change results.

*Alone*: a lock, which the kernel releases when the last process of the stage ends; a second process waits. If the dvc
of a stage is killed, the stage ends itself, because only DVC records results; the next run resumes from the last saved
state. *Unchanged inputs*: they are recorded before the work, and compared before anything is published and at the end.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from etude.core.errors import ConflictError, StaleError
from etude.training.processes import is_launched, is_main  # for a stage with several processes
from etude.watch.locks import locked
from etude.watch.looks import Look, receipt, refuse
from etude.watch.stages import AGAIN, UNDER_DVC, Stage, load, this_stage

POLL = 0.3  # seconds between two looks at other processes
CLOCK = 0.01  # seconds by which file times may be behind the clock
_current: list[Watch] = []


class Watch:
    """A running stage in this process, with the look at its inputs."""

    def __init__(self, stage: Stage, look: Look) -> None:
        self.stage, self.look = stage, look
        self.abandoned = ""

    def refuse_changed(self) -> None:
        """Raise StaleError if the result would be wrong, ConflictError if another dvc is making the stage's outs."""
        if self.abandoned:
            raise StaleError(self.stage.name, self.abandoned, AGAIN)
        for out in self.stage.outs:
            refuse_busy(out)
        self.look.refuse_changed()


@contextmanager
def watched(began: float) -> Iterator[None]:
    """Watch over the stage that this process runs, if it runs one; ``began`` is the time of the first import.

    Raises StaleError if the stage's inputs change before the block has ended, or are not those that DVC uses.
    """
    stage = this_stage()
    if stage is None:
        yield
        return
    from etude.watch.holders import above, holder_of, lives

    holder = holder_of(stage.outs[0]) if UNDER_DVC in os.environ and stage.outs else None
    if holder and not lives(holder.pid):
        raise StaleError(stage.name, f"dvc (process {holder.pid}), which started this stage, has ended", AGAIN)
    chain = above(holder.pid if holder else None) if UNDER_DVC in os.environ or is_launched() else []
    with _ended_with(chain, stage) as watches, _alone(stage):
        watch = Watch(stage, Look(stage.deps, stage.params))
        watches.append(watch)
        _refuse_edited_code(stage, began)
        if holder:
            _refuse_other_deps(stage, holder.reads)
        _current.append(watch)
        try:
            yield
        except SystemExit as ended:
            if not ended.code:
                _conclude(watch)
            raise
        else:
            _conclude(watch)
        finally:
            _current.remove(watch)


def look_of(file: Path, name: str) -> Look:
    """The look of the watched stage ``name`` of this file; if the stage is not watched, a new look."""
    for watch in _current:
        if watch.stage.name == f"{file.as_posix()}:{name}":
            return watch.look
    stage = load(file, name)
    return Look(stage.deps, stage.params)


def refuse_false(path: Path, look: Look | None) -> None:
    """Raise StaleError or ConflictError if a draft must not replace ``path``.

    The watched stage's inputs must be unchanged, and those of ``look``.
    """
    for watch in _current:
        watch.refuse_changed()
    refuse_busy(path.as_posix())
    if look is not None and all(look is not watch.look for watch in _current):
        look.refuse_changed()


def clear_drafts(path: Path) -> None:
    """Remove drafts that a killed run of this stage left beside ``path``, which contains its outs or is its out.

    The stage is alone, so nobody is using them.
    """
    outs = [Path(out) for watch in _current for out in watch.stage.outs]
    if any(out.is_relative_to(path) for out in outs):
        for draft in path.parent.glob(f".{path.name}-*"):
            shutil.rmtree(draft, ignore_errors=True)


def refuse_busy(path: str) -> None:
    """Raise ConflictError if a dvc that did not start this process is making ``path`` at this moment."""
    if UNDER_DVC in os.environ:
        return
    from etude.watch.holders import holder_of

    if (holder := holder_of(path)) and holder.lives:
        raise ConflictError(path, f"dvc (process {holder.pid}) is making it", "wait until that process has ended")


def _conclude(watch: Watch) -> None:
    """Compare the inputs a last time, and save the look: a flow compares it with the lock file that DVC then writes."""
    watch.refuse_changed()
    now = this_stage()
    if now is None or (now.deps, now.params) != (watch.stage.deps, watch.stage.params):
        refuse([f"the deps of {watch.stage.name} in dvc.yaml and its params"])
    watch.refuse_changed()  # again, because reading dvc.yaml takes long; only a flow notices later edits
    if is_main():
        watch.look.write(receipt(watch.stage.name))


def _refuse_edited_code(stage: Stage, began: float) -> None:
    """Raise StaleError if a module was edited between its import and the first look."""
    root = Path.cwd()
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    own = {file.relative_to(root).as_posix(): file for file in files if file.is_relative_to(root)}
    folders = tuple(f"{dep}/" for dep in stage.deps)
    deps = {name: file for name, file in own.items() if f"{name}/".startswith(folders)}
    refuse(sorted(name for name, file in deps.items() if _touched(file) >= began - CLOCK))


def _touched(file: Path) -> float:
    try:
        stat = file.stat()
    except OSError:
        return time.time()
    return max(stat.st_mtime, stat.st_ctime)


def _refuse_other_deps(stage: Stage, reads: frozenset[str]) -> None:
    """Raise StaleError if DVC, which read dvc.yaml and params at its start, uses other paths as deps."""
    own = {os.path.realpath(path) for path in (*stage.deps, *stage.params)}
    if reads and reads != own:
        parts = [("removed", sorted(reads - own)), ("added", sorted(own - reads))]
        changes = "; ".join(f"{how} deps: {', '.join(map(os.path.relpath, paths))}" for how, paths in parts if paths)
        raise StaleError(stage.name, f"its params or dvc.yaml changed after dvc started ({changes})", AGAIN)


@contextmanager
def _alone(stage: Stage) -> Iterator[None]:
    """Lock a stage, after waiting for another process that has the lock. Processes that inherit the file share it."""
    if is_launched():  # it inherited the lock from the process that started it
        yield
        return
    path = Path(".scratch", "locks", f"{stage.name.replace(':', '/')}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not locked(file):
            _wait(stage, file, path)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, str(os.getpid()).encode())
        os.set_inheritable(file, True)
        yield
    finally:
        os.close(file)


def _wait(stage: Stage, file: int, path: Path) -> None:
    number = path.read_text() or "of another"
    sys.stderr.write(f"{stage.name}: process {number} is still working on it; waiting until it has ended\n")
    while not locked(file):
        time.sleep(POLL)


@contextmanager
def _ended_with(processes: list[Any], stage: Stage) -> Iterator[list[Watch]]:
    """End this process when one of ``processes`` ends. Also on SIGTERM it ends normally, so that drafts are removed."""
    watches: list[Watch] = []
    over = threading.Event()
    launched = is_launched()  # then it may wait inside torch, where no signal handler runs

    def attend() -> None:
        from etude.watch.holders import gone

        while not over.wait(POLL):
            if (lost := gone(processes)) is not None:
                fault = (
                    f"the process that started this stage ({lost.pid}) has ended, so its result would not be recorded"
                )
                for watch in watches:
                    watch.abandoned = fault
                sys.stderr.write(f"error: {StaleError(stage.name, fault, AGAIN)}\n")
                sys.stderr.flush()
                if launched:
                    os._exit(1)
                _thread.interrupt_main(signal.SIGTERM)
                return

    before = None
    if not launched and threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _leave)
    if processes:
        threading.Thread(target=attend, daemon=True).start()
    try:
        yield watches
    finally:
        over.set()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
