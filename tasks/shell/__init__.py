"""The start of every stage and command: the right Python, checked parameters, the watch, complete outs."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from etude.watch.looks import Look

_ROOT = Path(__file__).parent.parent.parent


def _python() -> Path | None:
    """The Python in this checkout's .venv, or in that of the checkout of which this is a copy or a worktree."""
    folders, link = [_ROOT, *_ROOT.parents], _ROOT / ".git"  # DVC's experiments and flows run in .dvc/tmp, .scratch
    if link.is_file():  # a worktree: the file contains <checkout>/.git/worktrees/<name>
        folders += list((_ROOT / link.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).parents)[2:3]
    own = [folder for folder in folders if folder == _ROOT or (folder / "tasks" / "__init__.py").exists()]
    name = ".venv/Scripts/python.exe" if sys.platform == "win32" else ".venv/bin/python3"
    return next((python for each in own if (python := each / name).exists()), None)


def _continue_with(python: Path) -> NoReturn:
    """Run this command line with another Python, and exit with its exit code."""
    command = [str(python), *sys.orig_argv[1:]]
    if sys.platform == "win32":
        import subprocess

        # on Windows, exec ends this process at once, and DVC would believe that the stage has ended
        sys.exit(subprocess.run(command, check=False).returncode)
    os.execv(python, command)


# `.venv/bin/dvc repro` without an activated environment runs stages with the system's Python: continue with ours.
if sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ and (_PYTHON := _python()):
    _continue_with(_PYTHON)
if _LACKING := [name for name in ("pydantic", "ruamel", "torch", "typer") if not find_spec(name)]:
    _HOW = "run `make setup`, then `source .venv/bin/activate`, and this again"
    _NEXT = "set up and activate as README.md says of Windows" if sys.platform == "win32" else _HOW
    sys.exit(f"error: {sys.executable}: this Python has no {', '.join(_LACKING)}. Next: {_NEXT}.")

_BEGAN = time.time()  # all later imports see code of this time or newer

# Errors because the machine lacks something (not faults of the code), and the next action for each.
_LACKS = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, or ask for more",
    errno.EACCES: "change its permissions",
    errno.EROFS: "use a folder that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "remove the link that leads to itself",
    errno.ENOTDIR: "name a folder, or a file in one",
    errno.EISDIR: "name a file",
    errno.EIO: "check the disk",
}


def run(command: Callable[..., Any]) -> None:
    """Run a task's command line: check its arguments and all parameters of the project first, then do the work.

    A fault in an argument or in any params file stops every task before torch is imported and before anything is
    written. No two processes run the same stage of dvc.yaml at once, and a stage fails if its inputs change meanwhile.
    """
    if sys.platform == "win32":  # names in dvc.yaml are in '…', which the shell of Windows does not remove
        sys.argv[1:] = [word.strip("'") for word in sys.argv[1:]]
    # imported by name, here and below: otherwise every stage would depend on every schema
    import_module("etude.command_line").command_line(prepared(command))


def prepared(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command``, which first checks all parameters. An EtudeError becomes one line on stderr, with exit code 1.

    The same happens if the machine lacks space, permissions or memory.
    """

    @wraps(command)
    def checked_first(*arguments: Any, **options: Any) -> None:
        from tasks.shell.console import warn

        with _faults_in_short(), _warnings_in_short():
            import_module("etude.arguments").checked(_watched(command), warn)(*arguments, **options)

    return checked_first


@contextmanager
def _faults_in_short() -> Iterator[None]:
    from etude.core.errors import BELOW, EtudeError, in_a_line
    from etude.core.memory import advising

    try:
        with advising(lambda: "close what else uses memory, and run this again: it goes on from what is saved"):
            yield
        return
    except EtudeError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _LACKS:
            raise
        message = f"{error.filename or 'disk'}: {error.strerror}. Next: {_LACKS[error.errno]}."
    sys.stderr.write(f"error: {BELOW.join(map(in_a_line, message.split(BELOW)))}\n")
    sys.exit(1)


@contextmanager
def _warnings_in_short() -> Iterator[None]:
    """Within the block, an EtudeWarning is one line on stderr; other warnings stay as they are."""
    import warnings

    from etude.core.errors import EtudeWarning, in_a_line

    plain = warnings.formatwarning

    def in_short(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, EtudeWarning):
            return f"warning: {in_a_line(str(message))}\n"
        return plain(message, category, filename, lineno, line)

    warnings.formatwarning = in_short
    try:
        yield
    finally:
        warnings.formatwarning = plain


@contextmanager
def publish(path: Path, look: Look | None = None) -> Iterator[Path]:
    """Yield a draft folder; at the end it replaces ``path``, if the stage's inputs and those of ``look`` are unchanged.

    Raises StaleError if they changed, and ConflictError if another DVC process is making ``path``.
    """
    from etude.core.files import replace_folder

    watch = import_module("etude.watch.watch")
    watch.clear_drafts(path)
    with replace_folder(path) as draft:
        yield draft
        watch.refuse_false(path, look)


def look_of(file: Path, name: str) -> Look:
    """A look at the inputs of the stage ``name`` of a dvc.yaml, from the start of this process."""
    look: Look = import_module("etude.watch.watch").look_of(file, name)
    return look


def _watched(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def under_watch(*arguments: Any, **options: Any) -> None:
        with import_module("etude.watch.watch").watched(_BEGAN):
            command(*arguments, **options)

    return under_watch
