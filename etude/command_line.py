"""Command lines of all commands: of tasks, of flows and of `etude`."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

_typed_in: Path | None = None  # the folder where `etude` was called; None: the working folder


def command_line(command: Callable[..., Any]) -> None:
    """Call ``command`` with the command line's arguments. Help and errors are plain text: [name] is no mark-up."""
    parser(command)()


def parser(command: Callable[..., Any]) -> Any:
    """The command line of ``command``, which Typer makes from its signature and docstring."""
    import inspect

    import typer

    # \\b: the example stays on one line, so that it can be copied
    text = (inspect.getdoc(command) or "").replace("\n\nExample: ", "\n\n\b\nExample: ")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=text)(command)
    return typer.main.get_command(app)


def enter(root: Path, typed_in: Path) -> None:
    """Change the working folder to ``root``, for a command that was called in the folder ``typed_in``."""
    global _typed_in
    os.chdir(root)
    _typed_in = None if typed_in == root else typed_in


def from_root(path: Path) -> Path:
    """``path`` relative to the working folder; the given one is relative to the folder where `etude` was called."""
    if _typed_in is None or path.is_absolute() or str(path).startswith("~"):
        return path
    try:
        return Path(os.path.relpath(_typed_in / path))
    except ValueError:  # another drive on Windows
        return _typed_in / path


def name_or_path(text: str, names: Container[str] = ()) -> str:
    """For an argument that is a name or a path: the path relative to the working folder, or ``text`` if it is a name.

    A text in ``names`` is a name, even if a folder has the same name; if a file has it, it is a path.
    """
    if _typed_in is None:
        return text
    path = from_root(Path(text))
    return str(path) if path.is_file() or (text not in names and path.exists()) else text
