"""Run one stage as a process of its own, which writes to a log file that the flow follows.

The log is a file and not a pipe, since a stage outlives a killed flow, and the next flow adopts its results. The log is
also the stage's lock: every process of the stage inherits it as its output, so it stays locked while one of them runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from shutil import disk_usage
from threading import Event
from typing import IO

from etude.core.errors import EtudeError, StaleError
from etude.core.yaml import read_yaml
from etude.watch.holders import lives
from etude.watch.locks import locked
from flows.plan import Stage
from flows.process import POLL, group_lives, stop_group
from flows.record import Record
from flows.repository import forget, repair
from flows.slots import Slots, StoppedError

GRACE = 10.0  # seconds between asking a stage to stop and killing it: enough to finish writing a resume state
BUSY_WAITS = (0.5, 1, 2, 4, 8)  # seconds to the next try while another dvc uses the same paths; the last one repeats
TABLE_LOST = re.compile(r"Unable to read RWLock-file|ERROR: failed to reproduce '[^']*': *$", re.MULTILINE)
"""What a dvc ends with whose entry in the table of busy paths is gone: another was killed while it wrote the table."""
TABLE_TRIES = 3
LOG_LIMIT = 1 << 20  # bytes; a larger log is emptied before a run, a smaller one is appended to
LAST_LINES = 20
HINTS = re.compile(
    r"To track the changes with git, run:|\s*git add .*dvc.lock|To enable auto staging, run:|Updating lock file .*|"
    r"\s*dvc config core.autostage true|Use `dvc push` to send your updates to remote storage."
)  # what DVC prints after every stage: kept in the log, not shown

Tell = Callable[[str, str], None]  # called with a kind ("state", "line", "glimpse" or "seconds") and a text


class StageError(Exception):
    """A stage ended without its outputs. The message names it, its exit code and the last lines of its log."""


class Site:
    """Where and how stages run. `jobs`: how many at once; `gpus`: device ids for the stages that need one.

    `home` is the user's checkout if `root` is a worktree of it: both share the slots that limit how many stages run at
    once. `held` are descriptors that every stage inherits: locks that must last as long as a stage runs. With `pull` a
    stage pulls everything it needs, even the inputs, from DVC's remote.
    """

    def __init__(
        self,
        root: Path,
        jobs: int,
        gpus: Sequence[str] = (),
        force: bool = False,
        home: Path | None = None,
        held: Sequence[int] = (),
        pull: bool = False,
    ) -> None:
        self.root, self.jobs, self.gpus, self.force, self.held, self.pull = root, jobs, gpus, force, held, pull
        self.slots = Slots((home or root) / ".scratch" / "slots")

    def log(self, stage: Stage) -> Path:
        """The file that a stage's output goes to."""
        return self.root / "logs" / f"{stage.slug}.log"

    def holder(self, stage: Stage) -> Path:
        """The file that names the holder of a stage's log: `flow` or `stage`, and a process number."""
        return self.root / ".scratch" / "running" / f"{stage.slug}.pid"


@dataclass
class Tail:
    """Reads what is appended to a file, line by line. `last` keeps the last lines, for error messages."""

    path: Path
    offset: int
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    rest: bytes = b""

    def follow(self, tell: Tell) -> None:
        """Pass on every line that became complete, and the present text of an unfinished one (a progress bar)."""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self.offset:
                self.offset, self.rest = 0, b""  # the file was emptied
            file.seek(self.offset)
            fresh = file.read()
        self.offset += len(fresh)
        *lines, self.rest = (self.rest + fresh).split(b"\n")
        for line in map(_shown, lines):
            self.last.append(line)
            if not HINTS.fullmatch(line):
                tell("line", line)
        if fresh and self.rest:
            tell("glimpse", _shown(self.rest))


def run(stage: Stage, site: Site, tell: Tell, stopping: Event, urgency: float = 0.0) -> str:
    """Bring a stage up to date: "ran", "restored" from DVC's run-cache, "unchanged", or "adopted" from another flow.

    If several stages wait for a slot, the one with the greatest `urgency` begins first.
    Raises StageError, or StoppedError when `stopping` is set: then no process of the stage is left.
    """
    log, holder = site.log(stage), site.holder(stage)
    for file in (log, holder):
        file.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as output, ExitStack() as stack:
        waited = _lock_log(output, holder, Tail(log, log.stat().st_size), tell, stopping)
        holder.write_text(f"flow {os.getpid()}")
        stack.callback(holder.unlink, missing_ok=True)
        tell("state", "queued")
        device, fds = None, list(site.held)
        if stage.resource == "gpu" and site.gpus:
            taken = stack.enter_context(_gpus(stage, site, stopping, urgency))
            device, fds = ",".join(site.gpus[number] for number, _ in taken), [*fds, *(fd for _, fd in taken)]
        fds.append(stack.enter_context(site.slots.take("job", site.jobs, stopping, urgency))[1])
        if log.stat().st_size > LOG_LIMIT:
            output.truncate(0)
        tell("state", "running")
        record = Record(site.root, stage.name)
        if not waited:  # after waiting, the record is of another flow's run, and must still be checked
            record.begin()
        outcome = _repro(stage, site, _Inherited(output, fds, environment(device)), tell, stopping)
        if outcome == "ran" or (waited and outcome == "unchanged"):
            _check(record, stage)
        return "adopted" if waited and outcome != "ran" else outcome


@contextmanager
def _gpus(stage: Stage, site: Site, stopping: Event, urgency: float) -> Iterator[list[tuple[int, int]]]:
    """The slots of a stage's GPUs: a build gets one for each of `processes`, every other stage one.

    Only one stage at a time collects several: two might wait for each other's.
    """
    count = min(_processes(site.root), len(site.gpus)) if stage.label.endswith(":build") else 1
    with ExitStack() as stack:
        with site.slots.take("several", 1, stopping, urgency) if count > 1 else nullcontext():
            taken = []
            for _ in range(count):
                taken.append(stack.enter_context(site.slots.take("gpu", len(site.gpus), stopping, urgency)))
        yield sorted(taken)


def _processes(root: Path) -> int:
    """`processes` of params.yaml; 1 if it is not there: the build tells what is wrong with the file."""
    try:
        return int(read_yaml(root / "params.yaml").get("processes", 1))
    except (EtudeError, TypeError, ValueError):
        return 1


def _check(record: Record, stage: Stage) -> None:
    try:
        record.check()
    except StaleError as error:
        raise StageError(f"{stage.label}: {error}") from error


def environment(device: str | None = None) -> dict[str, str]:
    """The environment of a stage: this Python first on the path, output unbuffered, no telemetry."""
    env = dict(os.environ, PYTHONUNBUFFERED="1", DVC_NO_ANALYTICS="1", DO_NOT_TRACK="1")
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    if device is not None:
        env["CUDA_VISIBLE_DEVICES"] = device
    return env


@dataclass(frozen=True)
class _Inherited:
    """What a stage's process gets: its log, the descriptors of its slots, its environment."""

    output: IO[bytes]
    fds: Sequence[int]
    env: dict[str, str]


def _lock_log(output: IO[bytes], holder: Path, tail: Tail, tell: Tell, stopping: Event) -> bool:
    """Lock the stage's log, and follow the log while another process holds it. True if another process did."""
    if locked(output.fileno()):
        return False
    tell("state", "running elsewhere")
    checked = time.monotonic()
    while not locked(output.fileno()):
        if stopping.wait(POLL):
            raise StoppedError
        tail.follow(tell)
        if time.monotonic() - checked > GRACE / 4:
            if _abandoned(holder):
                break
            checked = time.monotonic()
    return True


def _abandoned(holder: Path) -> bool:
    """Whether no process is left that could finish the stage, although a process still has its log open.

    If dvc was killed but its children were not, nobody would record their result: they are stopped first.
    """
    try:
        kind, number = holder.read_text().split()
    except (FileNotFoundError, ValueError):
        return not holder.exists()
    if kind == "flow" or lives(int(number)):
        return False
    stop_group(int(number), GRACE)
    return not group_lives(int(number))


def _repro(stage: Stage, site: Site, given: _Inherited, tell: Tell, stopping: Event) -> str:
    words = ["--pull" if site.pull else "--single-item", *["--force"] * site.force]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *words]
    log, tries, lost = site.log(stage), 0, 0
    while True:
        tail = Tail(log, log.stat().st_size)
        with _process([*command, stage.name], site.root, given, stopping) as process:
            site.holder(stage).write_text(f"stage {process.pid}")
            late = _follow(process, tail, tell, stage.timeout, stopping)
        tail.follow(tell)
        text = "\n".join(tail.last)
        if process.returncode == 0 and not late:
            return _outcome(stage, text)
        if not late and TABLE_LOST.search(text) and lost < TABLE_TRIES:
            repair(site.root)
            lost += 1
            continue
        blockers = re.findall(r"^ *\(PID (\d+)\): (.*)$", text, re.M)
        if late or not blockers or "is busy, it is being blocked by" not in text:
            raise StageError(_fault(stage, process.returncode, site.root, log, tail.last, late))
        tell("state", "waiting for another dvc")
        _wait_for(blockers, BUSY_WAITS[min(tries, len(BUSY_WAITS) - 1)], site.root, stopping)
        tell("state", "running")
        tries += 1


@contextmanager
def _process(
    command: Sequence[str], root: Path, given: _Inherited, stopping: Event
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; the group is stopped if the process fails or the block ends before it."""
    if stopping.is_set():
        raise StoppedError
    process = subprocess.Popen(
        command,
        cwd=root,
        env=given.env,
        stdin=subprocess.DEVNULL,
        stdout=given.output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=given.fds,
    )
    try:
        yield process
    finally:
        if process.poll() != 0:
            stop_group(process.pid, GRACE, process)


def _follow(process: subprocess.Popen[bytes], tail: Tail, tell: Tell, timeout: float, stopping: Event) -> bool:
    """Follow a process to its end, or until its timeout; True after a timeout."""
    start = time.monotonic()
    while process.poll() is None:
        tail.follow(tell)
        if timeout and time.monotonic() - start > timeout:
            return True
        if stopping.wait(POLL):
            raise StoppedError
    return False


def _outcome(stage: Stage, text: str) -> str:
    if f"'{stage.name}' didn't change, skipping" in text:
        return "unchanged"
    return "restored" if f"'{stage.name}' is cached - skipping run" in text else "ran"


def _fault(stage: Stage, code: int | None, root: Path, log: Path, last: Sequence[str], late: bool) -> str:
    text = "\n".join(last)
    own = re.findall(r"exited with (-?\d+)", text)
    how = f"took longer than its {stage.timeout:g} s" if late else f"ended with exit code {own[-1] if own else code}"
    lines = (f"    {line}" for line in last if line.strip())
    full = os.strerror(ENOSPC) in text or disk_usage(root).free < LOG_LIMIT
    hint = ["The disk is full: free some space, and run the flow again. What is finished is kept."] * full
    return "\n".join([f"{stage.label} {how}. Its log, {log.relative_to(root)}, ends with:", *lines, *hint])


def _wait_for(blockers: Sequence[tuple[str, str]], patience: float, root: Path, stopping: Event) -> None:
    """Wait until one of the processes that block DVC is gone; remove processes that are gone from DVC's table."""
    running = {int(pid): command for pid, command in blockers}
    end = time.monotonic() + patience
    while time.monotonic() < end:
        gone = [pid for pid, command in running.items() if not lives(pid, command)]
        for pid in gone:
            forget(root, pid)
        if gone:
            return
        if stopping.wait(POLL):
            raise StoppedError


def _shown(line: bytes) -> str:
    """A line as a terminal would show it at the end: only what follows the last carriage return."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace").rstrip()
