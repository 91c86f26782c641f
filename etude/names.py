"""The names that a shell completes: of methods, image sets, presets, formats and stages. They are read, not checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

FRONT = ("prepare", "caption", "encode")  # the stages of each image set
OF_A_METHOD = ("build", "evaluate", "export", "grid")  # those of each method's dvc.yaml that a person asks for


def methods(incomplete: str = "") -> list[str]:
    """The methods whose names begin so."""
    return _fitting((file.parent.parent.name for file in Path("pipelines").glob("*/method/__init__.py")), incomplete)


def image_sets(incomplete: str = "") -> list[str]:
    """The image sets of params.yaml; none where that cannot be read."""
    from etude.core.errors import ParamsError
    from etude.core.yaml import read_yaml

    try:
        sets = read_yaml("params.yaml").get("sets")
    except ParamsError:
        return []
    return _fitting(map(str, sets if isinstance(sets, dict) else ()), incomplete)


def presets(incomplete: str = "") -> list[str]:
    """The presets."""
    return _fitting((file.stem for file in Path("presets").glob("*.yaml")), incomplete)


def formats(incomplete: str = "") -> list[str]:
    """The formats that files are written in."""
    return _fitting((file.stem for file in Path("etude/formats").glob("*/[!_]*.py")), incomplete)


def targets(incomplete: str = "") -> list[str]:
    """What flows run: methods, their stages, and those of each image set."""
    own = [f"{method}:{stage}" for method in methods() for stage in OF_A_METHOD]
    front = [f"{stage}@{name}" for stage in FRONT for name in image_sets()]
    return _fitting([*methods(), *own, *front], incomplete)


def methods_and_sets(incomplete: str = "") -> list[str]:
    """What the evidence can be narrowed to."""
    return _fitting([*methods(), *image_sets()], incomplete)


def among(*words: str) -> Callable[[str], list[str]]:
    """The completion of an argument that is one of a few words."""

    def fitting(incomplete: str) -> list[str]:
        return _fitting(words, incomplete)

    return fitting


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
