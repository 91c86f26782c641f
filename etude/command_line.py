"""One way for all commands to be command lines: of tasks, of flows, and what `etude` is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

_typed_in: Path | None = None  # where `etude` was typed; None: in the folder that the command works in


def command_line(command: Callable[..., Any]) -> None:
    """Call ``command`` with what the command line says. Help and errors are plain text: [name] is no mark-up."""
    parser(command)()


def parser(command: Callable[..., Any]) -> Any:
    """The command line of ``command``: what Typer makes of its signature and docstring."""
    import inspect

    import typer

    # \\b: the example stays on one line, to be copied.
    text = (inspect.getdoc(command) or "").replace("\n\nExample: ", "\n\n\b\nExample: ")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=text)(command)
    return typer.main.get_command(app)


def enter(root: Path, typed_in: Path) -> None:
    """Work in ``root`` from here on, on a command line that a person typed in the folder ``typed_in``."""
    global _typed_in
    os.chdir(root)
    _typed_in = None if typed_in == root else typed_in


def from_root(path: Path) -> Path:
    """The path from the folder that commands work in; a relative one is relative to where it was typed."""
    if _typed_in is None or path.is_absolute() or str(path).startswith("~"):
        return path
    try:
        return Path(os.path.relpath(_typed_in / path))
    except ValueError:  # another drive of Windows
        return _typed_in / path


def name_or_path(text: str, names: Container[str] = ()) -> str:
    """What was typed in the place of a name or a path: the path from the root where it is one, else ``text``.

    ``names`` are no paths, even where a folder is called the same; a file is one in any case.
    """
    if _typed_in is None:
        return text
    path = from_root(Path(text))
    return str(path) if path.is_file() or (text not in names and path.exists()) else text
