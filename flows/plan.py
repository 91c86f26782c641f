"""What DVC says there is to do: its graph and its status, as a list of stages.

With `flows.record` the only file that speaks to DVC.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph
from dvc.rwlock import RWLOCK_FILE
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

from etude.core.errors import InputError
from etude.core.params import nearest, read_yaml
from etude.project import check
from flows.mending import mend_locks, mend_table
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

    `name` is DVC's own address seen from the root, whatever the current folder (`prepare@style`, `photos.dvc`,
    `pipelines/lora/dvc.yaml:build`); `label` is the short form people read and type (`lora:build`). `upstream` holds
    names. `why` says what changed since the last run: nothing when it is empty. `outs` are paths from the root.
    `timeout` is in seconds, 0 for none. Stages of one `recipe` do the same where they read the same files. `title`
    tells runs elsewhere than in the user's checkout apart.
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
        """The label, told apart from those of other runs."""
        return f"{self.title} {self.label}".strip()

    @property
    def slug(self) -> str:
        """The label as a relative path: where files about this stage go."""
        return self.label.replace(":", "/")


@dataclass(frozen=True)
class Sources:
    """What a target and its ancestors read that none of them makes: paths, parameters by file (no keys: all), commands.

    `outs` is what they make.
    """

    paths: tuple[str, ...]
    outs: tuple[str, ...]
    params: Mapping[str, tuple[str, ...]]
    commands: tuple[str, ...]


def sources(root: Path, targets: Iterable[str]) -> dict[str, Sources]:
    """What the result of each target hangs on, as the repository stands. Raises InputError as `load` does."""
    try:
        with locked_repo(root) as repo:
            graph = get_active_graph(repo.index.graph)
            names = {stage: _name(stage, repo.root_dir) for stage in graph}
            labels = _labels(names.values())
            return {target: _sources(graph, names, _wanted(graph, names, labels, [target])) for target in targets}
    except DvcException as error:
        raise InputError(str(root), _causes(error), "mend it; `dvc status` shows the same fault") from error


def load(root: Path, targets: Sequence[str] = (), *, force: bool = False) -> list[Stage]:
    """Read the graph under `root` and compare it with the workspace; upstream stages come first.

    `targets` are names, labels, `foreach` groups, method folders, dvc.yaml files or outputs; none means what plain
    `dvc repro` reaches. Their ancestors belong to the plan. With `force` every stage is said to be wanted again.
    Raises ParamsError for parameters that no stage would take, before DVC fills them in, and InputError where DVC
    cannot read the project or a target is unknown.
    """
    if root.resolve() == CHECKOUT:  # another revision has other code, which checks its own parameters
        check(root)
    try:
        with locked_repo(root) as repo:
            graph = get_active_graph(repo.index.graph)
            names = {stage: _name(stage, repo.root_dir) for stage in graph}
            labels = _labels(names.values())
            wanted = _wanted(graph, names, labels, targets)
            order = dict.fromkeys(chain(*(_upstream_first(graph, stage, names) for stage in wanted)))
            _refuse_missing(repo.index.stages, order, root)
            stages: dict[str, Stage] = {}
            for stage in order:
                upstream = [stages[name] for name in sorted(names[other] for other in graph.successors(stage))]
                stages[names[stage]] = _describe(stage, names[stage], labels[names[stage]], upstream, force)
            return list(stages.values())
    except DvcException as error:
        raise InputError(str(root), *_told(root, error)) from error


def _told(root: Path, error: DvcException) -> tuple[str, str]:
    """What DVC says is wrong with a project, and what to do."""
    if not (root / ".git").exists():
        return (
            "is a copy without .git, where DVC keeps no records",
            "run `git init && git add -A && git commit -m start`",
        )
    return _causes(error), "mend it; `dvc status` shows the same fault"


def _refuse_missing(known: Iterable[DvcStage], wanted: Iterable[DvcStage], root: Path) -> None:
    """Raise InputError for what is read, is not there, and is made by no stage: DVC would end at it, half way."""
    made = [Path(out.fs_path) for stage in known for out in stage.outs]
    deps = [dep for stage in wanted for dep in stage.deps if not isinstance(dep, ParamsDependency) and not dep.exists]
    paths = dict.fromkeys(Path(dep.fs_path) for dep in deps)
    missing = [path for path in paths if not any(path.is_relative_to(o) or o.is_relative_to(path) for o in made)]
    if missing:
        shown = ", ".join(os.path.relpath(path, root.resolve()) for path in missing)
        fault = "is missing, and no stage makes it" if len(missing) == 1 else "are missing, and no stage makes them"
        raise InputError(shown, fault, "`python -m commands.check` says which parameters name it, and what brings it")


def pending(stages: Sequence[Stage]) -> dict[Stage, tuple[str, ...]]:
    """The stages not known to be up to date, and why: what changed, or that what they read may change first."""
    reasons: dict[str, tuple[str, ...]] = {}
    labels = {stage.name: stage.label for stage in stages}
    for stage in stages:
        after = [labels[name] for name in stage.upstream if name in reasons]
        if stage.why or after:
            reasons[stage.name] = stage.why or (f"after {', '.join(after)}",)
    return {stage: reasons[stage.name] for stage in stages if stage.name in reasons}


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the content of everything."""
    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir)


def remote(root: Path) -> str:
    """Where DVC pushes to by default; nothing when no remote is named."""
    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote", "")
        return str(repo.config["remote"][name]["url"]) if name in repo.config["remote"] else ""


def use_cache(root: Path, cache: Path) -> None:
    """Let the checkout at `root` keep content in another folder, linked rather than copied where the disk can."""
    with Repo(str(root)) as repo, repo.config.edit("local") as config:
        config.setdefault("cache", {}).update(dir=str(cache), type=["reflink", "hardlink", "symlink", "copy"])


def combinations(overrides: Sequence[str]) -> list[dict[str, list[str]]]:
    """The combinations that DVC's `-S` overrides stand for (`rank=4,8`, `a.yaml:rate=1e-3,1e-4`): overrides by file.

    Raises InputError where one cannot be read.
    """
    from hydra.errors import HydraException

    try:
        return cast("list[dict[str, list[str]]]", get_hydra_sweeps(to_path_overrides(overrides)))
    except (DvcException, HydraException) as error:
        raise InputError(" ".join(overrides), _causes(error), "write it as `-S file.yaml:key=1,2`") from error


def override(root: Path, values: Mapping[str, Sequence[str]]) -> None:
    """Write values into the params files of a checkout, as `dvc exp run -S` does.

    Raises InputError on an unknown file or key.
    """
    for path, overrides in values.items():
        shown = f"{path}:{','.join(overrides)}"
        try:
            for text in overrides:
                if fault := _unknown(root / path, text):
                    raise InputError(shown, fault, "name a file and a key that exist")
            apply_overrides(root / path, list(overrides))
        except (DvcException, OSError) as error:
            raise InputError(shown, _causes(error), "name a file and a key that exist") from error


def _unknown(file: Path, text: str) -> str:
    """What is wrong with the key of `key=value`, in a YAML file: hydra tells it in words of its own."""
    name = text.partition("=")[0]
    if not file.exists():
        return "there is no such file"
    if name.startswith(("+", "~")) or "[" in name or file.suffix not in (".yaml", ".yml"):
        return ""  # to be added or taken out
    here: Any = read_yaml(file)
    for part in name.split("."):
        entries = dict(enumerate(here)) if isinstance(here, list) else here if isinstance(here, dict) else {}
        known = {str(key): value for key, value in entries.items()}
        if part not in known:
            return f"there is no key `{name}`{nearest(part, known)}"
        here = known[part]
    return ""


def forget(root: Path, pid: int) -> None:
    """Drop what process `pid` holds in DVC's table of busy paths.

    For a process known to be gone whose number something else now has (or keeps, as a zombie nobody reaps): DVC
    looks at the number only, and would call its paths busy for ever.
    """
    from dvc.rwlock import _edit_rwlock  # no public way to it

    with locked_repo(root) as repo:
        hardlink = repo.config["core"].get("hardlink_lock", False)
        with _edit_rwlock(repo.tmp_dir, repo.fs, hardlink) as table:
            for path in [path for path, info in table["write"].items() if info["pid"] == pid]:
                del table["write"][path]
            for path, infos in list(table["read"].items()):
                table["read"][path] = [info for info in infos if info["pid"] != pid]
                if not table["read"][path]:
                    del table["read"][path]


def mend(root: Path) -> None:
    """Mend what a kill cut short while DVC wrote it: its table of busy paths, a `dvc.lock`."""
    with locked_repo(root):
        pass


@contextmanager
def locked_repo(root: Path) -> Iterator[Repo]:
    """DVC's view of a repository, for one process at a time: whoever writes the table of busy paths holds this lock."""
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        mend_table(Path(repo.tmp_dir, RWLOCK_FILE))
        mend_locks(root)
        yield repo


def _upstream_first(graph: Graph, stage: DvcStage, names: Mapping[DvcStage, str]) -> Iterator[DvcStage]:
    for other in sorted(graph.successors(stage), key=names.__getitem__):
        yield from _upstream_first(graph, other, names)
    yield stage


def _sources(graph: Graph, names: Mapping[DvcStage, str], wanted: Iterable[DvcStage]) -> Sources:
    order = dict.fromkeys(chain(*(_upstream_first(graph, stage, names) for stage in wanted)))
    made = sorted(_path(out) for stage in order if not stage.is_data_source for out in stage.outs)
    entries = [*chain(*(stage.deps for stage in order)), *chain(*(s.outs for s in order if s.is_data_source))]
    paths = {_path(entry) for entry in entries if not isinstance(entry, ParamsDependency)}
    given = {path for path in paths if not any(_within(path, out) or _within(out, path) for out in made)}
    params: dict[str, list[str]] = {}
    for dep in (entry for entry in entries if isinstance(entry, ParamsDependency)):
        params.setdefault(_path(dep), []).extend(dep.params or [""])  # "": all of the file
    tracked = {path: () if "" in keys else tuple(sorted(set(keys))) for path, keys in sorted(params.items())}
    commands = sorted(stage.cmd for stage in order if stage.cmd)
    return Sources(tuple(sorted(given)), tuple(made), tracked, tuple(commands))


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
            hint = f"did you mean {' or '.join(near)}?" if near else "`dvc stage list --all` names them all"
            raise InputError(target, "no stage, group, method or output is called that", hint)
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
            raise ValueError(f"{resource!r} is no resource")
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
            f"{name}: meta.flow", str(error), "write it as `{resource: gpu, timeout: 4h, retries: 1}`"
        ) from error


def _recipe(stage: DvcStage, name: str, upstream: Sequence[Stage]) -> str:
    params = {_path(dep): dep.read_params() for dep in stage.deps if isinstance(dep, ParamsDependency)}
    paths = sorted(_path(entry) for entry in (*stage.deps, *stage.outs))
    text = repr((name, stage.cmd, sorted(params.items()), paths, [other.recipe for other in upstream]))
    return hashlib.sha256(text.encode()).hexdigest()


def _why(stage: DvcStage) -> tuple[str, ...]:
    """What changed since the stage last ran here, a phrase each; nothing when it is up to date."""
    try:
        changes = [entry for entries in stage.status().values() for entry in entries]
    except LockError:
        return (BUSY,)
    if changes and stage.cmd and not any(entry.hash_info for entry in (*stage.deps, *stage.outs)):
        return ("never run",)
    entries = {str(entry): entry for entry in (*stage.outs, *stage.deps)}  # DVC tells paths from the current folder
    why: list[str] = []
    for entry in changes:
        if not isinstance(entry, dict):
            why.append("its command changed" if entry == "changed checksum" else entry)
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


def _causes(error: BaseException) -> str:
    """The message of `error` and of what caused it, on one line."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if (text := " ".join(str(cause).split())) and text not in texts:
            texts.append(text)
        cause = cause.__cause__
    return ": ".join(texts)
