"""A method is a package with six names; this is their shape, and how a method is found."""

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
GIVEN = ("base", "params", "report")  # what every `build` is given


class Input(NamedTuple):
    """One of the ``models`` that ``build`` may ask for: a file or folder, and the SHA-256 of what it holds."""

    path: Path
    digest: str


class Method(Protocol):
    """The six names of ``pipelines/<name>/method/__init__.py``."""

    Params: type[MethodParams]  # the schema of this folder's params.yaml
    unsupported: Mapping[str, str]  # families of base model that it cannot use, each with the reason
    formats: tuple[
        str, ...
    ]  # the files other programs load: formats of etude.formats, called by the export stage alone
    axes: Mapping[str, float]  # settings of `apply`, with their defaults: what a grid turns without building again

    @property
    def build(self) -> Any:
        """``build(*, base, <needs>, params, report) -> Artifact``: learn. Keyword names declare what it needs.

        What may be asked for is in `etude.training.inputs`; what Params may declare, in `etude.core.mixins`.
        """

    def apply(self, artifact: Artifact, base: Base, **settings: float) -> AbstractContextManager[Base]:
        """Change the base; leaving undoes it exactly."""


def method_names() -> list[str]:
    """Every method there is: the folders of ``pipelines`` that hold a ``method/``."""
    return sorted(path.parent.parent.name for path in PIPELINES.glob("*/method/__init__.py"))


def load_method(name: str) -> Method:
    """The module of a method; raises ArgumentError with the nearest name when there is none."""
    names = method_names()
    if name not in names:
        fault = f"there is no method `{name}`{nearest(name, names)}"
        raise ArgumentError("METHOD", fault, f"name one of {', '.join(names)}")
    return cast("Method", import_module(f"pipelines.{name}.method"))


def needs(method: Method) -> tuple[str, ...]:
    """What ``build`` asks for: its keyword names without those that all are given."""
    return tuple(name for name in inspect.signature(method.build).parameters if name not in GIVEN)


def own_name(module: str) -> str:
    """The method in whose folder a module is: ``own_name(__name__)``; so a copy of the folder has a name of its own."""
    return module.split(".")[1]
