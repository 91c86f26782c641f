"""All commands as one: `etude <command>`. A command's module is imported only when that command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from etude import command_line, names

COMPLETING = "_ETUDE_COMPLETE"  # environment variable: set when a shell completes a word
HELP = """Train every Stable Diffusion method as a pipeline, from pictures to a report.

Paths are relative to where you are, also in a folder of the checkout; messages name them from its root.
"""


class Command(NamedTuple):
    """One command: the module that holds it, the name of its function there, and what it is for."""

    module: str
    function: str
    about: str


COMMANDS = {
    "preset": Command("commands.preset", "preset", "Set the values that suit a base model."),
    "base": Command("commands.base", "base", "Fetch the models that methods read, or bring one."),
    "images": Command("commands.images", "images", "Bring pictures in, and let methods learn from them."),
    "crops": Command("commands.crops", "crops", "Draw every crop of an image set on its picture."),
    "masks": Command("commands.masks", "masks", "Make masks of the pictures of an image set."),
    "captions": Command("commands.captions", "captions", "Show what caption settings would change, before they do."),
    "check": Command("commands.check", "check", "Check all parameters, and that what they name is here."),
    "migrate": Command("commands.migrate", "migrate", "Write the present names into older params files."),
    "run": Command("flows.run", "main", "Run the stages that are not up to date, side by side."),
    "sweep": Command("flows.sweep", "main", "Try parameter values side by side, each as an experiment."),
    "reproduce": Command("flows.reproduce", "main", "Run a past revision again, and compare what it makes."),
    "serve": Command("flows.serve", "main", "Run flows nightly, after changes and weekly."),
    "server": Command("flows.server", "main", "Keep Prefect's pages open, to look at past runs."),
    "worker": Command("flows.worker", "main", "Let this machine take stages of flows elsewhere."),
    "sample": Command("commands.sample", "sample", "Draw with any base and any stack of artifacts."),
    "convert": Command("commands.convert", "convert", "Turn a file into another format of its kind."),
    "merge-concepts": Command(
        "commands.merge_concepts", "merge_concepts", "Merge what Custom Diffusion learned apart."
    ),
    "memory": Command("commands.memory", "memory", "Count the GPU memory that a method needs, before it runs."),
    "sizes": Command("commands.sizes", "sizes", "Count how large the files of every method are."),
    "evidence": Command("evidence.run", "main", "Measure what the founding notes claim (hours)."),
    "schemas": Command("commands.schemas", "schemas", "Write the JSON Schemas of the params files, for editors."),
    "settings": Command("commands.schemas", "settings", "Write the JSON Schema of flows/params.yaml, for editors."),
    "reference": Command("commands.reference", "reference", "Write docs/reference.md, the page of all parameters."),
}


class Commands(TyperGroup):
    """The group knows all commands by name and purpose, and imports only the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command as any group does, and load it; for an unknown name the error suggests the nearest one."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


def load(name: str) -> Any:
    """The command line of a command."""
    module, function, _ = COMMANDS[name]
    command = getattr(import_module(module), function)
    if module.startswith("commands."):
        from tasks.shell import prepared

        command = prepared(command)
    return command_line.parser(_from_here(command))


def _from_here(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command`` with every path made relative to the root: the user may have typed it in another folder."""

    @wraps(command)
    def from_root(**given: Any) -> Any:
        return command(**{name: _seen_from_root(name, value) for name, value in given.items()})

    return from_root


def _seen_from_root(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_seen_from_root(name, one) for one in value]
    if name == "targets" and value:  # targets of flows: names of stages, or paths of outputs
        return command_line.name_or_path(value, names.methods())
    return command_line.from_root(value) if isinstance(value, Path) else value


def make() -> typer.Typer:
    """The application, without importing any command."""
    app = typer.Typer(cls=Commands, rich_markup_mode=None, no_args_is_help=True, help=HELP)
    app.callback()(lambda: None)
    for name, command in COMMANDS.items():
        app.command(name, help=command.about)(lambda: None)
    return app


def main(root: Path, typed_in: Path) -> None:
    """Run the command line that was typed in the folder ``typed_in`` of the checkout ``root``."""
    if sys.platform == "win32":
        from commands.windows import provide_python3

        provide_python3()
    command_line.enter(root, typed_in)
    first, *others = sys.argv[1:] or [""]
    if first in COMMANDS and COMPLETING not in os.environ:  # faster than through the group
        load(first)(args=others, prog_name=f"etude {first}")
    make()(prog_name="etude", complete_var=COMPLETING)
