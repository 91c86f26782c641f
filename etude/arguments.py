"""Checks of command-line arguments, before the params files are checked: an error names the argument."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from etude import sources
from etude.core.errors import ArgumentError
from etude.core.method import method_names
from etude.core.params import nearest
from etude.project import check
from etude.watch.stages import UNDER_DVC

METHODS = {"method": "", "methods": "--method"}  # parameters that name methods → name in errors; "": that of the help
SETS = {  # parameters that name image sets, by command
    "prepare": "name", "caption": "name", "encode": "name", "views": "name", "class_images": "real", "crops": "name",
    "masks": "name",
}  # fmt: skip
REPAIRS = ("migrate",)  # commands that repair params files: they must run even if these have faults


def checked(command: Callable[..., Any], warn: Callable[[str], None]) -> Callable[..., Any]:
    """``command``, which first checks its arguments and all parameters of the project; raises EtudeError.

    If DVC runs the command, ``warn`` is called for each missing input of the stages.
    """
    if command.__name__ in REPAIRS:
        return command
    signature = inspect.signature(command)

    @wraps(command)
    def after_a_look(*arguments: Any, **options: Any) -> Any:
        values = signature.bind(*arguments, **options).arguments
        methods: list[str] = []
        for argument, shown in METHODS.items():
            value = values.get(argument) or []
            for method in [value] if isinstance(value, str) else value:
                refuse_unknown(shown or _shown(argument, signature), "method", method, method_names())
                methods.append(method)
        project = check(Path(), methods)
        if UNDER_DVC in os.environ:
            for fault in sources.lacking(project):
                warn(fault)
        name = SETS.get(command.__name__, "")
        if values.get(name):
            refuse_unknown(_shown(name, signature), "image set", values[name], project.sets)
        return command(*arguments, **options)

    return after_a_look


def refuse_unknown(argument: str, kind: str, name: str, choices: Iterable[str] | Mapping[str, Any]) -> None:
    """Raises ArgumentError, with the nearest name and all choices, if ``name`` is none of ``choices``."""
    names = sorted(choices)
    if name not in names:
        hint = nearest(name, names)
        fault = f"there is no {kind} `{name}`{hint if hint.endswith('?') else ''}"  # all names are in the action
        raise ArgumentError(argument, fault, f"name one of {', '.join(names)}")


def _shown(name: str, signature: inspect.Signature) -> str:
    """An argument as it is written in the help: NAME, or --name if it is optional."""
    optional = signature.parameters[name].default is not inspect.Parameter.empty
    return f"--{name}" if optional else name.upper()
