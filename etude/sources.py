"""Inputs of the chosen methods that no stage makes (base, CLIP, pictures), and where they can be fetched from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etude.core.errors import BELOW, InputError
from etude.core.method import load_method
from etude.core.params import MethodParams, load, read_yaml
from etude.project import Project

PRESETS = Path("presets")
MADE = "artifacts/"  # the folder of everything that stages make


class Source(NamedTuple):
    """A file or folder, and the parameter that names it."""

    path: str  # relative to the repository's root
    key: str  # such as ``params.yaml: base``
    set: str = ""  # if it is a folder of pictures: the image set


class Origin(NamedTuple):
    """The place from which a model is fetched."""

    source: str  # hub id
    revision: str
    half: bool = False  # prefer fp16 files


def sources(root: Path, project: Project) -> list[Source]:
    """Every file and folder that ``dvc repro`` reads and no stage makes, each once, with the key that names it."""
    shared = {
        "base": project.base,
        **{f"caption.captioners.{kind}": path for kind, path in project.caption.captioners.items()},
        "caption.words.file": project.caption.words.file,
        "evaluate.clip": project.evaluate.clip,
        "evaluate.classifier": project.evaluate.classifier,
        "evaluate.heldout": project.evaluate.heldout,
    }
    listed = [Source(path, f"params.yaml: {key}") for key, path in shared.items()]
    for name in project.methods:
        file = f"pipelines/{name}/params.yaml"
        params: MethodParams = load(root / file, load_method(name).Params)
        listed += [Source(path, f"{file}: {key}") for key, path in params.sources().items()]
    listed += [Source(path, f"params.yaml: sets.{key}", key) for key, path in project.sets.items()]
    return list({source.path: source for source in reversed(listed) if not source.path.startswith(MADE)}.values())[::-1]


def missing(root: Path, project: Project) -> list[Source]:
    """The sources that do not exist."""
    return [source for source in sources(root, project) if not (root / source.path).exists()]


def origin(path: str) -> Origin | None:
    """The origin of the model at ``path``: from its ``.dvc`` file, or else from the presets; None if neither has it."""
    recorded = Path(f"{path}.dvc")
    meta = (read_yaml(recorded).get("meta") if recorded.exists() else None) or {}
    if {"from", "revision"} <= set(meta):
        return Origin(meta["from"], meta["revision"], bool(meta.get("half")))
    return next((Origin(item["from"], item["revision"]) for item in _fetched(path)), None)


def _fetched(path: str) -> Iterator[dict[str, Any]]:
    """The entries of presets for the model at ``path``; each preset is read only when it is needed."""
    for preset in sorted(PRESETS.glob("*.yaml")):
        yield from (item for item in read_yaml(preset)["fetch"] if item["to"] == path)


def family_of(base: Path) -> str:
    """The family of a base; if the base is missing, from the preset that fetches it. Raises BaseError."""
    items = () if base.exists() else _fetched(base.as_posix())
    if named := next((str(item["family"]) for item in items if "family" in item), None):
        return named
    from etude.base.family import recognise

    return recognise(base)


def faults(lacking: Iterable[Source]) -> list[str]:
    """One line for each source: the missing path, the parameter that names it, and the next action."""
    return [f"{source.path} ({source.key}): {_fault(source)}" for source in lacking]


def lacking(project: Project) -> list[str]:
    """One line for each missing source; without it, `dvc repro` stops with only a path and `[Errno 2]`.

    Also one for each of `hidden`. Empty in a worktree, because flows copy only the inputs that a stage needs there.
    """
    return [] if Path(".git").is_file() else [*faults(missing(Path(), project)), *hidden(Path(), project)]


def hidden(root: Path, project: Project) -> list[str]:
    """One line for each link to a folder within a source: DVC does not follow it, and would miss a change there.

    DVC does follow a link that is the source itself, and links to files. In image sets, Étude does not follow links to
    folders either.
    """
    links: dict[Path, str] = {}
    for source in sources(root, project):
        if not source.set and source.path != project.evaluate.heldout:
            links |= dict.fromkeys(_links(root / source.path), source.key)
    folders = (project.evaluate.heldout_folder(name, root) for name in project.sets)
    links |= {folder: "params.yaml: evaluate.heldout" for folder in folders if folder.is_symlink()}
    action = "put a copy of that folder in place of the link, or make the whole model one link"
    lines = []
    for link, key in links.items():
        place = link.relative_to(root).as_posix()
        lines.append(f"{place} ({key}): is a link to a folder, behind which DVC sees no change. Next: {action}.")
    return lines


def _links(folder: Path) -> Iterator[Path]:
    """The links to folders below a folder."""
    for place, folders, _ in os.walk(folder):
        yield from (Path(place, name) for name in sorted(folders) if Path(place, name).is_symlink())


def _fault(source: Source) -> str:
    tracked, place = Path(f"{source.path}.dvc").exists(), origin(source.path)
    fault = "is tracked by DVC, but its content is not here" if tracked else "is missing"
    actions = ["`etude base` fetches it"] if place else []
    if tracked:
        actions.append(f"`dvc pull {source.path}` brings it from your DVC remote")
    elif source.set:
        actions.append(f"bring the pictures in with `etude images --from … --set {source.set}`, or correct `sets`")
    elif not place:
        actions.append(f"bring it with `etude base --from … --to {source.path}`, or correct that parameter")
    return f"{fault}. Next: {'; or '.join(actions)}."


class SourcesError(InputError):
    """Sources are missing, or hidden from DVC; the message is one line for each."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__("sources", "some cannot be used", "see each line")
        self.args = (BELOW.join(lines),)
