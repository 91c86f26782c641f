"""One way for all commands, of tasks and of flows, to be command lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def command_line(command: Callable[..., Any]) -> None:
    """Call ``command`` with what the command line says. Help and errors are plain text: [name] is no mark-up."""
    import typer

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    app()
