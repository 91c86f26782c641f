"""Names for shell completion: methods, image sets, presets, formats and stages. They are not checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

FRONT = ("prepare", "caption", "set_page", "encode")  # the stages of each image set
OF_A_METHOD = ("build", "evaluate", "export", "grid")  # the stages of each method's dvc.yaml that people run


def methods(incomplete: str = "") -> list[str]:
    """The methods whose names begin with ``incomplete``."""
    return _fitting((file.parent.parent.name for file in Path("pipelines").glob("*/method/__init__.py")), incomplete)


def image_sets(incomplete: str = "") -> list[str]:
    """The image sets of params.yaml; none if it cannot be read."""
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
    """The file formats."""
    return _fitting((file.stem for file in Path("etude/formats").glob("*/[!_]*.py")), incomplete)


def targets(incomplete: str = "") -> list[str]:
    """The targets that flows can run: methods, their stages, and the stages of each image set."""
    own = [f"{method}:{stage}" for method in methods() for stage in OF_A_METHOD]
    front = [f"{stage}@{name}" for stage in FRONT for name in image_sets()]
    return _fitting([*methods(), *own, *front], incomplete)


def methods_and_sets(incomplete: str = "") -> list[str]:
    """Methods and image sets: the choices to which the evidence can be limited."""
    return _fitting([*methods(), *image_sets()], incomplete)


def among(*words: str) -> Callable[[str], list[str]]:
    """The completion function of an argument whose choices are ``words``."""

    def fitting(incomplete: str) -> list[str]:
        return _fitting(words, incomplete)

    return fitting


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
