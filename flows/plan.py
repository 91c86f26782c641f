"""DVC's graph and status, as a list of stages.

Only this file, `flows.record` and `flows.repository` call DVC's Python API.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo.reproduce import get_active_graph

from etude.core.errors import InputError
from etude.project import check
from flows.repairs import repair_runs
from flows.repository import causes, locked_repo
from flows.settings import seconds

if TYPE_CHECKING:
    from dvc.stage import Stage as DvcStage

Graph: TypeAlias = Any  # networkx.DiGraph of DVC's stages; an edge leads from a stage to one that it depends on
CHECKOUT = Path(__file__).resolve().parent.parent  # whose code this is
PROJECT_FILE = "dvc.yaml"
BUSY = "another process is at it"


@dataclass(frozen=True)
class Stage:
    """One stage of the graph.

    `name` is DVC's own address, relative to the root in any current folder (`prepare@style`, `photos.dvc`,
    `pipelines/lora/dvc.yaml:build`); `label` is the short form people read and type (`lora:build`). `upstream` holds
    names. `why` lists what changed since the last run; empty: nothing changed. `outs` are paths from the root.
    `timeout` is in seconds, 0 for none. Stages with the same `recipe` do the same if they read the same files. `title`
    names the run if it is not in the user's checkout.
    """

    name: str
    label: str
    upstream: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    resource: str = "cpu"
    timeout: float = 0.0
    retries: int = 0
    recipe: str = ""
    title: str = ""

    @property
    def shown(self) -> str:
        """The label, after the title of its run."""
        return f"{self.title} {self.label}".strip()

    @property
    def slug(self) -> str:
        """The label as a relative path: where files about this stage go."""
        return self.label.replace(":", "/")


@dataclass(frozen=True)
class Sources:
    """What a target and its ancestors read and do not make: paths, parameters by file (no keys: all), and commands.

    `outs` is what they make.
    """

    paths: tuple[str, ...]
    outs: tuple[str, ...]
    params: Mapping[str, tuple[str, ...]]
    commands: tuple[str, ...]


def sources(root: Path, targets: Iterable[str]) -> dict[str, Sources]:
    """What the result of each target depends on, as the repository is now. Raises InputError as `load` does."""
    try:
        with locked_repo(root) as repo:
            graph = get_active_graph(repo.index.graph)
            names = {stage: _name(stage, repo.root_dir) for stage in graph}
            labels = _labels(names.values())
            return {target: _sources(graph, names, _wanted(graph, names, labels, [target])) for target in targets}
    except DvcException as error:
        raise InputError(str(root), causes(error), "correct it; `dvc status` then shows no error") from error


def load(
    root: Path, targets: Sequence[str] = (), *, force: bool = False, lacking: list[str] | None = None
) -> list[Stage]:
    """Read the graph under `root` and compare it with the workspace; upstream stages come first.

    `targets` are names, labels, `foreach` groups, method folders, dvc.yaml files or outputs; none means what plain
    `dvc repro` reaches. Their ancestors belong to the plan. With `force` every stage is marked to run again.
    Inputs that are missing, and that no stage makes, are added to `lacking`; without it they are a fault.
    Raises ParamsError for parameters that no stage accepts, before DVC fills them in, and InputError if DVC cannot
    read the project, a target is unknown, or an input is missing.
    """
    if root.resolve() == CHECKOUT:  # another revision has other code, which checks its own parameters
        check(root)
    try:
        with locked_repo(root) as repo:
            repair_runs(Path(repo.stage_cache.cache_dir))  # here, not at every lock: it visits all of the run-cache
            graph = get_active_graph(repo.index.graph)
            names = {stage: _name(stage, repo.root_dir) for stage in graph}
            labels = _labels(names.values())
            wanted = _wanted(graph, names, labels, targets)
            order = dict.fromkeys(chain(*(_upstream_first(graph, stage, names) for stage in wanted)))
            missing = _missing(repo.index.stages, order)
            if lacking is not None:
                lacking += missing
            elif missing:
                raise InputError(*without(missing))
            stages: dict[str, Stage] = {}
            for stage in order:
                below = sorted(names[other] for other in graph.successors(stage))
                upstream = [stages[name] for name in below]
                stages[names[stage]] = _describe(stage, names[stage], labels[names[stage]], upstream, force)
            return list(stages.values())
    except DvcException as error:
        raise InputError(str(root), *_told(root, error)) from error


def _told(root: Path, error: DvcException) -> tuple[str, str]:
    """What is wrong with a project, in DVC's words, and what to do."""
    if not (root / ".git").exists():
        return (
            "is a copy without .git, where DVC keeps no records",
            "run `git init && git add -A && git commit -m start`",
        )
    return causes(error), "correct it; `dvc status` then shows no error"


def _missing(known: Iterable[DvcStage], wanted: Iterable[DvcStage]) -> list[str]:
    """Inputs that are missing, and that no stage makes: DVC would notice them only half way through the run."""
    made = [_path(out) for stage in known for out in stage.outs]
    deps = [dep for stage in wanted for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    absent = dict.fromkeys(_path(dep) for dep in deps if not dep.exists)
    return [path for path in absent if not _made_among(path, made)]


def without(missing: Sequence[str]) -> tuple[str, str, str]:
    """What to say of inputs that are missing: where, what, and what to do."""
    fault = "is missing, and no stage makes it" if len(missing) == 1 else "are missing, and no stage makes them"
    return ", ".join(missing), fault, "run `etude check`: it names the parameter and the command that brings the file"


def pending(stages: Sequence[Stage]) -> dict[Stage, tuple[str, ...]]:
    """The stages not known to be up to date, and why: a change, or a stage before them that runs first."""
    reasons: dict[str, tuple[str, ...]] = {}
    labels = {stage.name: stage.label for stage in stages}
    for stage in stages:
        after = [labels[name] for name in stage.upstream if name in reasons]
        if stage.why or after:
            reasons[stage.name] = stage.why or (f"after {', '.join(after)}",)
    return {stage: reasons[stage.name] for stage in stages if stage.name in reasons}


def _upstream_first(graph: Graph, stage: DvcStage, names: Mapping[DvcStage, str]) -> Iterator[DvcStage]:
    for other in sorted(graph.successors(stage), key=names.__getitem__):
        yield from _upstream_first(graph, other, names)
    yield stage


def _sources(graph: Graph, names: Mapping[DvcStage, str], wanted: Iterable[DvcStage]) -> Sources:
    order = dict.fromkeys(chain(*(_upstream_first(graph, stage, names) for stage in wanted)))
    made: list[str] = []
    read: set[str] = set()
    params: dict[str, list[str]] = {}
    for stage in order:
        outs = map(_path, stage.outs)
        if stage.is_data_source:  # a .dvc file: no command makes what it tracks
            read.update(outs)
        else:
            made.extend(outs)
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                params.setdefault(_path(dep), []).extend(dep.params or [""])  # "": all of the file
            else:
                read.add(_path(dep))
    made.sort()
    given = sorted(path for path in read if not _made_among(path, made))
    tracked = {path: () if "" in keys else tuple(sorted(set(keys))) for path, keys in sorted(params.items())}
    commands = sorted(stage.cmd for stage in order if stage.cmd)
    return Sources(tuple(given), tuple(made), tracked, tuple(commands))


def _made_among(path: str, outs: Iterable[str]) -> bool:
    """Whether a path is one of these outs, lies in one, or holds one."""
    return any(_within(path, out) or _within(out, path) for out in outs)


def _within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _name(stage: DvcStage, root: str) -> str:
    path = Path(stage.path).relative_to(root).as_posix()
    if not stage.is_data_source and (name := getattr(stage, "name", None)):
        return str(name) if path == PROJECT_FILE else f"{path}:{name}"
    return path


def _labels(names: Iterable[str]) -> dict[str, str]:
    """`pipelines/lora/dvc.yaml:build` becomes `lora:build`, unless two stages would then share a label."""
    names = list(names)
    short = {name: re.sub(rf"^(?:.*/)?([^/]+)/{re.escape(PROJECT_FILE)}:", r"\1:", name) for name in names}
    taken = list(short.values())
    return {name: short[name] if taken.count(short[name]) == 1 else name for name in names}


def _wanted(
    graph: Graph, names: Mapping[DvcStage, str], labels: Mapping[str, str], targets: Sequence[str]
) -> Iterable[DvcStage]:
    known = {stage: _addresses(stage, name, labels[name]) for stage, name in names.items()}
    wanted: dict[DvcStage, None] = {}
    for target in targets or [PROJECT_FILE]:
        found = [stage for stage in graph if target.rstrip("/") in known[stage]]
        if not found:
            near = difflib.get_close_matches(target, sorted(set().union(*known.values())), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see all stages with `dvc stage list --all`"
            raise InputError(target, "no stage, group, method or output has this name", hint)
        wanted |= dict.fromkeys(found)
    return wanted


def _addresses(stage: DvcStage, name: str, label: str) -> set[str]:
    file = Path(stage.path).relative_to(stage.repo.root_dir)
    group = {text.partition("@")[0] for text in (name, label)}
    folder = {file.parent.as_posix(), file.parent.name} if file.name == PROJECT_FILE else set()
    return {name, label, file.as_posix(), *group, *(folder - {"", "."}), *(_path(out) for out in stage.outs)}


def _path(out: Any) -> str:
    path = Path(out.fs_path)
    root = Path(out.repo.root_dir)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(out)


def _describe(stage: DvcStage, name: str, label: str, upstream: Sequence[Stage], force: bool) -> Stage:
    flow = (stage.meta or {}).get("flow") or {}
    resource = str(flow.get("resource", "cpu"))
    why = _why(stage)
    try:
        if resource not in ("cpu", "gpu"):
            raise ValueError(f"{resource!r} is not a resource: cpu or gpu")
        return Stage(
            name=name,
            label=label,
            upstream=tuple(other.name for other in upstream),
            why=("forced",) if force and stage.cmd and not why else why,
            outs=tuple(_path(out) for out in stage.outs),
            resource=resource,
            timeout=seconds(flow.get("timeout", 0)),
            retries=int(flow.get("retries", 0)),
            recipe=_recipe(stage, name, upstream),
        )
    except ValueError as error:
        raise InputError(
            f"{name}: meta.flow", str(error), "write it in dvc.yaml as `{resource: gpu, timeout: 4h, retries: 1}`"
        ) from error


def _recipe(stage: DvcStage, name: str, upstream: Sequence[Stage]) -> str:
    params = {_path(dep): dep.read_params() for dep in stage.deps if isinstance(dep, ParamsDependency)}
    paths = sorted(_path(entry) for entry in (*stage.deps, *stage.outs))
    text = repr((name, stage.cmd, sorted(params.items()), paths, [other.recipe for other in upstream]))
    return hashlib.sha256(text.encode()).hexdigest()


def _why(stage: DvcStage) -> tuple[str, ...]:
    """What changed since the stage last ran here, a phrase for each change; empty when it is up to date."""
    try:
        changes = [entry for entries in stage.status().values() for entry in entries]
    except LockError:
        return (BUSY,)
    if changes and stage.cmd and not any(entry.hash_info for entry in (*stage.deps, *stage.outs)):
        return ("never run",)
    entries = {str(entry): entry for entry in (*stage.outs, *stage.deps)}  # paths relative to the current folder
    why: list[str] = []
    for entry in changes:
        if not isinstance(entry, dict):
            why.append("its command changed" if entry == "changed command" else entry)
            continue
        for key, change in cast(dict[str, Any], next(iter(entry.values()))).items():
            path = _path(entries[key]) if key in entries else key
            if isinstance(change, dict):
                why += [f"{path}: {_param(entries[key], name, state)}" for name, state in change.items()]
            else:
                why.append(f"{path} {'missing' if change == 'deleted' else change}")
    return tuple(why)


def _param(dep: ParamsDependency, key: str, state: str) -> str:
    if state != "modified":
        return f"{key} {state}"
    before, now = dict(cast(dict[str, Any], dep.hash_info.value))[key], dep.read_params()[key]
    if isinstance(before, dict) and isinstance(now, dict):
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return ", ".join(f"{key}.{name} {before.get(name)} → {now.get(name)}" for name in changed)
    return f"{key} {before} → {now}"
