"""All parameters of the project, checked together before any work: one error that lists every fault."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from etude.captions.settings import Caption
from etude.diffusion.settings import Sampling
from etude.errors import ParamsError
from etude.evaluation.settings import Evaluate
from etude.grids.settings import Grid, refuse_unknown
from etude.images.settings import Prepare
from etude.method import Method, load_method
from etude.params import MethodParams, Schema, load, nearest, read_yaml

Name = Field(pattern=r"^[a-z][a-z0-9_]*$")


class Project(Schema):
    """The root params.yaml."""

    methods: list[str] = Field(min_length=1)
    sets: dict[str, str] = Field(min_length=1)
    base: str
    seed: NonNegativeInt
    threads: PositiveInt
    processes: PositiveInt
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "fp16", "bf16"]
    prepare: Prepare
    caption: Caption
    sampling: Sampling
    prompts: dict[str, list[str]]
    evaluate: Evaluate
    grid: Grid


def check(root: Path) -> Project:
    """Read params.yaml and those of the chosen methods; raises one ParamsError with every fault of every file."""
    faults: list[str] = []
    project: Project | None = None
    try:
        project = load(root / "params.yaml", Project)
    except ParamsError as error:
        faults.append(str(error))
    chosen = project.methods if project else read_yaml(root / "params.yaml").get("methods")
    for name in chosen if isinstance(chosen, list) else []:
        try:
            path = root / "pipelines" / str(name) / "params.yaml"
            method = load_method(str(name))
            params: MethodParams = load(path, method.Params)
            faults += _set_faults(path, params, project)
            faults += _grid_faults(str(name), method, project)
            faults += _tracking_faults(path, method)
        except ParamsError as error:
            faults.append(str(error))
    if faults or project is None:
        raise _FaultsError(faults)
    return project


def _set_faults(path: Path, params: MethodParams, project: Project | None) -> list[str]:
    """A method learns from a set that exists and that has prompts to draw it with."""
    if project is None:
        return []
    missing = sorted(set(params.image_sets()) - set(project.sets))
    if missing:
        action = "Next: correct it, or bring the pictures in with `make images`."
        return [f"{path}: there is no image set `{name}`{nearest(name, project.sets)}. {action}" for name in missing]
    if not project.prompts.get(params.set):
        fault = f"`prompts` has none for the image set `{params.set}`, which {path.parent.name} learns"
        return [f"params.yaml: {fault}. Next: add `prompts.{params.set}`."]
    return []


def _grid_faults(name: str, method: Method, project: Project | None) -> list[str]:
    """A grid turns what there is to turn, or what this method's `apply` knows."""
    if project is None:
        return []
    try:
        refuse_unknown(project.grid, tuple(method.axes))
    except ValueError as error:
        return [f"params.yaml: `grid`, for {name}: {error}. Next: correct `grid`, or take {name} out of `methods`."]
    return []


def _tracking_faults(path: Path, method: Method) -> list[str]:
    """A build that tracks single keys tracks all that it depends on: a change of another would be passed over."""
    graph = path.with_name("dvc.yaml")
    build = read_yaml(graph).get("stages", {}).get("build", {}) if graph.exists() else {}
    own = [entry for entry in build.get("params", []) if isinstance(entry, dict)]  # {file: keys, or none for all}
    tracked = {str(key) for entry in own for keys in entry.values() for key in keys or []}
    missing = sorted(set(method.Params.model_fields) - {"export"} - tracked) if tracked else []
    return [f"{graph}: the build stage does not track `{key}`. Next: add it to its `params`." for key in missing]


class _FaultsError(ParamsError):
    """Several faults, one a line; each names its file and the next action."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("params", f"{len(faults)} faults", "correct them")
        self.args = ("\n       ".join(faults),)
