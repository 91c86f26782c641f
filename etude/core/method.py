"""A method is a package with six names: they are defined here, and methods are found by their folders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from etude.core.errors import ArgumentError
from etude.core.params import MethodParams, nearest

if TYPE_CHECKING:
    from etude.base.base import Base
    from etude.core.artifact import Artifact

PIPELINES = Path(__file__).parent.parent.parent / "pipelines"
ALWAYS = ("base", "params", "report")  # arguments that every `build` gets


class Input(NamedTuple):
    """One of the ``models`` that ``build`` may need: a file or folder, and the SHA-256 of its content."""

    path: Path
    digest: str


class Method(Protocol):
    """The six names of ``pipelines/<name>/method/__init__.py``."""

    Params: type[MethodParams]  # the schema of this folder's params.yaml
    unsupported: Mapping[str, str]  # families of base model that it cannot use, each with the reason
    formats: tuple[str, ...]  # formats of etude.formats in which the export stage writes files for other programs
    axes: Mapping[str, float]  # settings of `apply`, with defaults; a grid can vary them without a new build

    @property
    def build(self) -> Any:
        """``build(*, base, <needs>, params, report) -> Artifact``: learn. Its keyword names declare the needed inputs.

        All possible inputs are in `etude.training.inputs`; what Params may declare is in `etude.core.mixins`.
        """

    def apply(self, artifact: Artifact, base: Base, **settings: float) -> AbstractContextManager[Base]:
        """A context manager that changes the base; on exit the change is undone exactly."""


def method_names() -> list[str]:
    """All methods: the folders of ``pipelines`` that contain a folder ``method/``."""
    return sorted(path.parent.parent.name for path in PIPELINES.glob("*/method/__init__.py"))


def load_method(name: str) -> Method:
    """The module of a method; raises ArgumentError with the nearest name if there is no such method."""
    names = method_names()
    if name not in names:
        fault = f"there is no method `{name}`{nearest(name, names)}"
        raise ArgumentError("METHOD", fault, f"name one of {', '.join(names)}")
    return cast("Method", import_module(f"pipelines.{name}.method"))


def needs(method: Method) -> tuple[str, ...]:
    """The inputs that ``build`` needs: its keyword names without those that every `build` gets."""
    return tuple(name for name in inspect.signature(method.build).parameters if name not in ALWAYS)


def own_name(module: str) -> str:
    """The method in whose folder a module is: ``own_name(__name__)``. So a copy of the folder needs no edit."""
    return module.split(".")[1]
