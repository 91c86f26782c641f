"""All parameters of the project are checked together, before any work: one error lists every fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.base.emphasis import Piece, pieces_of
from etude.base.settings import PLAIN, Sampling, Text, text_faults
from etude.captions.settings import CAPTIONERS, Caption
from etude.core.errors import BELOW, InputError, ParamsError
from etude.core.method import Method, load_method, method_names
from etude.core.mixins import Concepts, models_of
from etude.core.params import Location, MethodParams, Schema, Seed, SetName, load, nearest, read_yaml, refuse_twice
from etude.core.yaml import shortened
from etude.evaluation.settings import Evaluate
from etude.grids.settings import ALL, Grid, checkpoint_steps, refuse_unknown
from etude.grids.syntax import texts
from etude.images.settings import Prepare
from etude.metrics import BY_KEY, HELD_OUT
from etude.training.plan import SavesMemory, Trained
from etude.training.settings import Compute, Days, Tracker
from etude.training.start import Starts

RESERVED = ("raw", "samples", "captioners")  # folders of data/ that do not belong to an image set


def params_files(root: Path) -> list[Path]:
    """The params files below ``root`` that stages read: its own, and one for each pipeline."""
    return [root / "params.yaml", *sorted(root.glob("pipelines/*/params.yaml"))]


def schemas_of(root: Path) -> Iterator[tuple[Path, type[Schema]]]:
    """The params files below ``root``, each with its schema; files in folders that are no method are left out."""
    names = method_names()
    for path in params_files(root):
        name = path.relative_to(root).parent.name
        if not name:
            yield path, Project
        elif name in names:
            schema: type[Schema] = load_method(name).Params
            yield path, schema


class Project(Schema):
    """The root params.yaml."""

    added_keys: ClassVar = {
        "text": PLAIN.model_dump(),
        "compute": Compute.added_keys,
        "trackers": [],
        "keep_states": 0,
    }

    methods: list[str] = Field(min_length=1, max_length=64)
    sets: dict[SetName, Location] = Field(min_length=1)
    base: Location
    seed: Seed
    threads: int = Field(ge=1, le=1024)
    processes: int = Field(ge=1, le=64)
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "fp16", "bf16"]
    compute: Compute
    trackers: list[Tracker] = Field(description="services that also get the loss curve while a build runs")
    keep_states: Days = Field(description="days for which a finished training can go on with more steps; 0: none")
    prepare: Prepare
    caption: Caption
    text: Text = Field(description="how texts are read, by all stages alike")
    sampling: Sampling
    prompts: dict[SetName, Annotated[list[str], Field(min_length=1)]]
    evaluate: Evaluate
    grid: Grid

    @model_validator(mode="after")
    def _possible(self) -> Self:
        prompts = {f"prompts.{name}": listed for name, listed in self.prompts.items()}
        refuse_twice(methods=self.methods, trackers=self.trackers, **prompts)
        if taken := [name for name in self.sets if name in RESERVED]:
            raise ValueError(f"`sets` has `{taken[0]}`: choose another name, because data/{taken[0]} has another use")
        if (self.device, self.precision) == ("cpu", "fp16"):
            raise ValueError("`precision: fp16` needs a GPU, and `device` is cpu: write fp32 or bf16")
        return self


def check(root: Path, others: Sequence[str] = ()) -> Project:
    """Read and check params.yaml and the params files of the chosen methods, and of ``others``.

    Raises one ParamsError with every fault of every file.
    """
    faults: list[str] = []
    project: Project | None = None
    try:
        project = load(root / "params.yaml", Project)
    except ParamsError as error:
        faults.append(str(error))
    if project:
        shared = (*_weight_faults(project, project.text), *_tag_faults(project))
        faults += [str(ParamsError(root / "params.yaml", *fault)) for fault in shared]
    chosen = project.methods if project else read_yaml(root / "params.yaml").get("methods")
    for name in dict.fromkeys([*map(str, chosen if isinstance(chosen, list) else []), *others]):
        try:
            faults += _method_faults(root, name, project)
        except ParamsError as error:
            faults.append(str(error))
    if faults or project is None:
        raise _FaultsError(faults)
    return project


def _method_faults(root: Path, name: str, project: Project | None) -> list[str]:
    """The faults of one of `methods` together with the project; raises ParamsError if its params file has a fault."""
    shared, names = root / "params.yaml", method_names()
    if name not in names:
        fault = f"`methods` has `{shortened(name)}`, which is no method{nearest(name, names)}"
        raise ParamsError(shared, fault, f"choose among {', '.join(names)}")
    path, method = root / "pipelines" / name / "params.yaml", load_method(name)
    params: MethodParams = load(path, method.Params)
    if project is None:
        return []
    faults = [(path, *fault) for fault in (*_set_faults(params, project), *_run_faults(params, project))]
    faults += [(path, *fault) for fault in _start_faults(name, params)]
    faults += [(shared, *fault) for fault in _drawing_faults(root, name, params, project)]
    faults += [(shared, *fault) for fault in _grid_faults(name, method, params, project)]
    faults += [(path.with_name("dvc.yaml"), *fault) for fault in _tracking_faults(path, method)]
    return [str(ParamsError(*fault)) for fault in faults]


Fault = tuple[str, str]  # what is wrong, and what to do


def _weight_faults(params: Schema, reading: Text) -> Iterator[Fault]:
    """Words that brackets change, and weights in the texts of ``params`` that are no numbers; with what to do."""
    for key, word in _words(params):
        if _is_changed(word, reading):
            fault = f"`{key}` is {word!r}, and brackets and backslashes in it mean weights by `text.emphasis`"
            action = "choose a word without them, or write `text.emphasis: none` in params.yaml of the project"
            yield f"{fault}: no text would contain it", action
    for text in _texts(params.model_dump()):
        try:
            pieces_of(text, reading)
        except InputError as error:
            yield f"{error.place} {error.fault}", error.action


def _words(params: Schema) -> Iterator[tuple[str, str]]:
    """The words that a method learns, each with its key; a name may be empty."""
    if isinstance(params, MethodParams) and params.word:
        yield "name", params.word
    if isinstance(params, Concepts):
        yield from ((f"concepts.{name}.word", concept.word) for name, concept in params.concepts.items())


def _is_changed(word: str, reading: Text) -> bool:
    try:
        return pieces_of(word, reading) != [Piece(word, 1.0)]
    except InputError:
        return True


def _texts(value: object) -> Iterator[str]:
    """The texts in parameters, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _tag_faults(project: Project) -> Iterator[Fault]:
    """Brackets in a tagger's tags, which would be read as weights."""
    taggers = [kind for kind in project.caption.captioners if CAPTIONERS[kind].settings == "tags"]
    if taggers and project.caption.tags.escape == "none" and project.text.emphasis != "none":
        fault = (
            f"`caption.tags.escape` is none: brackets in tags of {taggers[0]}, such as saber_(fate), would be weights"
        )
        yield f"{fault} by `text.emphasis`", "write `escape: a1111`, or `emphasis: none`"


def _set_faults(params: MethodParams, project: Project) -> Iterator[Fault]:
    """Image sets of a method that do not exist."""
    for name in sorted(set(params.image_sets()) - set(project.sets)):
        fault = f"there is no image set `{name}`{nearest(name, project.sets)}"
        yield fault, "correct the name, or bring the pictures in with `etude images`"


def _run_faults(params: MethodParams, project: Project) -> Iterator[Fault]:
    """Settings that cannot be combined with those of the project, and models that no method makes."""
    yield from text_faults(params, project.text)
    yield from _weight_faults(params, project.text)
    if isinstance(params, Trained):
        yield from params.excluded(project)
    own = params.base_precision if isinstance(params, SavesMemory) else "fp32"
    if own not in ("fp32", project.precision):
        fault = f"`base_precision: {own}` needs `precision: {own}` in params.yaml, which is {project.precision}"
        either = dict.fromkeys(("fp32", project.precision))
        yield f"{fault}: the weights would be converted in each step", f"write {' or '.join(either)}"
    named = {f"models.{key}": place for key, place in models_of(params).items()}
    named |= {"start": params.start} if isinstance(params, Starts) else {}
    for key, place in named.items():
        top, _, rest = place.partition("/")
        method = rest.partition("/")[0]
        if top == "artifacts" and method not in method_names():
            fault = f"`{key}` is {place}, but no method is called `{method}`{nearest(method, method_names())}"
            yield fault, "correct the name in this path"


def _start_faults(name: str, params: MethodParams) -> Iterator[Fault]:
    """A start that DVC cannot track: a file that the method itself makes, or a name such as lora@160, not a path."""
    place = params.start if isinstance(params, Starts) else ""
    method, _, step = place.partition("@")
    if f"{place}/".startswith(f"artifacts/{name}/"):
        copy = f"`cp {place} models/`, and set `start` to the copy"
        yield f"`start` is {place}, which the build of {name} itself replaces", f"keep a copy: {copy}"
    elif method in method_names():
        file = f"checkpoints/{int(step):06d}.safetensors" if step.isdecimal() else "artifact.safetensors"
        yield f"`start` is {place}, and DVC needs a path", f"write artifacts/{method}/build/{file}"


def _drawing_faults(root: Path, name: str, params: MethodParams, project: Project) -> Iterator[Fault]:
    """Missing prompts of the image set, and a metric for the best checkpoint that cannot be measured."""
    if params.set in project.sets and params.set not in project.prompts:
        fault = f"`prompts` has no prompts for the image set `{params.set}`, which {name} learns"
        yield fault, f"add `prompts.{params.set}`"
    metric = project.evaluate.best.metric
    try:
        # ``root`` may be a draft with params files only; then the pictures are in the current folder
        folders = [project.evaluate.heldout_folder(params.set, where) for where in (root, Path())]
    except InputError as error:
        yield f"`evaluate.heldout`, for {name}: {error.place} {error.fault}", error.action
        return
    if HELD_OUT in BY_KEY[metric].needs and not any(folder.is_dir() for folder in folders):
        fault = f"`evaluate.best.metric: {metric}` needs held-out pictures, but there is no {folders[1]}, for {name}"
        yield fault, "choose another metric, such as image_similarity"


def _grid_faults(name: str, method: Method, params: MethodParams, project: Project) -> Iterator[Fault]:
    """Axes of the grid that do not exist for this method, and checkpoints that its training does not make."""
    action = f"correct `grid`, or remove {name} from `methods`"
    try:
        refuse_unknown(project.grid, tuple(method.axes))
    except ValueError as error:
        yield f"`grid`, for {name}: {error}", action
    plan = params.training if isinstance(params, Trained) else None
    for axis in filter(None, (project.grid.x, project.grid.y, project.grid.z)):
        if plan is None or axis.axis != "checkpoint" or texts(str(axis.values)) == [ALL]:
            continue
        steps = {*range(plan.checkpoint_every, plan.steps, plan.checkpoint_every), plan.steps}
        never = [step for step in checkpoint_steps(texts(str(axis.values))) if step not in steps]
        if never:
            every = f"every {plan.checkpoint_every} steps, and at {plan.steps}"
            yield f"`grid`: {name} makes no checkpoint at step {never[0]}, but {every}", action


def _tracking_faults(path: Path, method: Method) -> Iterator[Fault]:
    """Keys that the build depends on but does not track in dvc.yaml: DVC would not notice a change of them."""
    graph = path.with_name("dvc.yaml")
    build = read_yaml(graph).get("stages", {}).get("build", {}) if graph.exists() else {}
    own = [entry for entry in build.get("params", []) if isinstance(entry, dict)]  # {file: keys}; no keys: all
    tracked = {str(key) for entry in own for keys in entry.values() for key in keys or []}
    for key in sorted(set(method.Params.model_fields) - {"export"} - tracked) if tracked else []:
        yield f"the build stage does not track `{key}`", "add this key to the `params` of the stage"


class _FaultsError(ParamsError):
    """Several faults, one in each line; each names its file and the next action."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("params", f"{len(faults)} faults", "correct them")
        self.args = (BELOW.join(faults),)
