"""Bring base models, and the CLIP that evaluation uses, into the repository, where DVC tracks them.

Models that the chosen methods need come from the sources in the presets; any other model comes from a hub at a commit,
or from a folder or file on this machine. A base outside the repository could change unnoticed, and a past experiment
without its base cannot be reproduced.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

from ruamel.yaml import YAML

from commands import hub
from commands.masking import is_clipseg, open_finder
from commands.tracking import restore, track
from etude import sources
from etude.base.checkpoint import SUFFIXES
from etude.base.family import recognise
from etude.captions.settings import CAPTIONERS, Captioner
from etude.core.errors import ArgumentError, BaseError, ConflictError
from etude.core.model_folders import paths_in, read_config, refuse_pointer, weight_files
from etude.core.params import read_yaml
from etude.project import Project, check
from etude.watch.locks import locked, one_at_a_time
from tasks.shell.console import say

BESIDE = (".config", ".yaml")  # suffixes of the configuration beside a model in one file
PATHLIKE = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")  # how paths begin, but no hub id


def bring(source: str, to: Path, revision: str, half: bool) -> None:
    """Bring one model to TO: a copy of a local one, or a download from a hub at a commit. Raises an EtudeError."""
    local = Path(source).expanduser()
    if _is_single(source) and to.suffix.lower() != local.suffix.lower():
        to = to.with_name(to.name + local.suffix)
    _refuse_existing(to)
    if is_path(source):
        if revision:
            raise ArgumentError(
                "--revision", f"is for a model of the hub, and {source} is a local path", "leave --revision out"
            )
        tracked = copy(local, to, half)
    else:
        snapshot = hub.look(source, revision, half)
        hub.tell({to: snapshot})
        tracked = fetch(snapshot, to, sources.Origin(source, revision, half))
    if is_clipseg(to):
        use = f"make masks with it: `etude masks SET --model {to} --text dog`"
    else:
        key = f"caption.captioners.{captioner.kind}" if (captioner := _captioner(to)) else "base"
        use = f"name it in params.yaml: `{key}: {to}`"
    say(f"next: git add {shlex.join(f'{path}.dvc' for path in tracked)}, and {use}")


def fetch_missing() -> None:
    """Fetch every missing model that the chosen methods read, if its origin is known."""
    project = check(Path())
    for each in sources.missing(Path(), project):
        if Path(f"{each.path}.dvc").exists() and restore(Path(each.path)):
            say(f"{each.path}: restored from DVC's cache")
    lacking = sources.missing(Path(), project)
    origins = {Path(each.path): known for each in lacking if (known := sources.origin(each.path))}
    wanted = {to: hub.look(known.source, known.revision, known.half) for to, known in origins.items()}
    if wanted:
        hub.tell(wanted)
    tracked = [path for to, snapshot in wanted.items() for path in fetch(snapshot, to, origins[to])]
    tracked += _track_others(project)
    if tracked:
        say(f"to keep it: git add {shlex.join(f'{path}.dvc' for path in tracked)} models/.gitignore && git commit")
    if still := sources.missing(Path(), project):
        raise sources.SourcesError(sources.faults(still))
    say("all that the chosen methods read is here. Next: dvc repro")


@contextmanager
def alone() -> Iterator[None]:
    """A lock for bringing models: two processes would write the same files."""
    hub.WAITING.mkdir(parents=True, exist_ok=True)
    path = hub.WAITING / "lock"
    with open(path, "a", encoding="utf-8") as file:
        free = locked(file.fileno())
        if not free:
            say("models are being fetched here already: waiting for that")
        with nullcontext() if free else one_at_a_time(path):
            yield


def _track_others(project: Project) -> list[Path]:
    """Track models that a preset names and DVC does not track yet: copied by hand, or interrupted."""
    here = [Path(each.path) for each in sources.sources(Path(), project) if sources.origin(each.path)]
    left = [path for path in here if path.exists() and not Path(f"{path}.dvc").exists()]
    return [tracked for path in left for tracked in _track(path, kind_of(path))]


def is_path(source: str) -> bool:
    """Whether --from is a local path; otherwise it is the id of a model on a hub.

    Raises BaseError for a path that is missing.
    """
    local = Path(source).expanduser()
    if local.exists():
        return True
    first, *others = PurePosixPath(source).parts or ("",)
    single = _is_single(source) and len(others) < 2  # a hub's file is owner/name/file
    if PATHLIKE.match(source) or single or (others and Path(first).is_dir()):
        raise BaseError(source, "is missing: there is no such file or folder", "correct the path at --from")
    return False


def _is_single(path: str | Path) -> bool:
    """Whether a path, or a file of a hub, is by its suffix a whole model in one file."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def kind_of(path: Path) -> str:
    """The model's family, ``clip``, ``clipseg`` or a kind of captioner, found by opening it. Raises EtudeError."""
    if is_clipseg(path):  # first: the captioners would refuse it as a model that cannot describe pictures
        open_finder(path, "a picture")
        return "clipseg"
    if captioner := _captioner(path):
        captioner.check_model(path)
        return captioner.kind
    config = path / "config.json"
    if config.is_file() and read_config(config).get("model_type") == "clip":
        _open_clip(path)
        return "clip"
    family = recognise(path)
    from etude.base.base import DTYPES
    from etude.base.digest import PARTS
    from etude.base.loading import load_base

    for part in PARTS:  # one at a time, in half precision: it fits into little memory
        load_base(path, dtype=DTYPES["bf16"], parts=(part,))
    return family


def _captioner(path: Path) -> Captioner | None:
    """The captioner whose model is in the folder ``path``."""
    return next((captioner for captioner in CAPTIONERS.values() if captioner.recognises(path)), None)


def _open_clip(path: Path) -> None:
    weights = weight_files(path)
    words = ("tokenizer.json",) if (path / "tokenizer.json").exists() else ("vocab.json", "merges.txt")
    wanted = ("preprocessor_config.json", *words)  # transformers 5 writes one file of words, its forerunners two
    missing = [name for name in wanted if not (path / name).exists()] + ([] if weights else ["model.safetensors"])
    if missing:
        raise BaseError(path, f"is a CLIP without {', '.join(missing)}", "fetch the model again, with all files")
    for file in weights:
        refuse_pointer(file)
    from etude.base.clip import Clip

    Clip(path, "cpu", "fetch the model again, with all files")


def copy(source: Path, to: Path, half: bool = False) -> list[Path]:
    """Copy a file and the configuration beside it, or a folder's needed files; returns what DVC tracks now."""
    recognised = kind_of(source) if source.is_file() else ""  # a folder may hold more than what is copied
    with _draft(to) as draft:
        if source.is_file():
            shutil.copyfile(source, draft)
            config, beside = source.with_suffix(".config"), source.with_suffix(".yaml")
            _copy_files(config, draft.with_suffix(".config"), paths_in(config))
            if beside.exists() and not config.exists():
                shutil.copyfile(beside, draft.with_suffix(".yaml"))
        else:
            _copy_files(source, draft, hub.needed(paths_in(source), half))
        kind = recognised or _checked(draft, str(source))
    return _track(to, kind)


def _copy_files(source: Path, to: Path, names: Iterable[str]) -> None:
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, to / name)


def fetch(snapshot: hub.Snapshot, to: Path, origin: sources.Origin) -> list[Path]:
    """Download a model, check it and let DVC track it; returns the paths that DVC did not track before."""
    folder = hub.download(snapshot)
    brought = folder / snapshot.files[0].name if _is_single(to) else folder
    try:
        kind = _checked(brought, snapshot.shown)
    except BaseError:
        shutil.rmtree(folder)  # the download is complete, but no model that can be used
        raise
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(brought, to)
    shutil.rmtree(folder, ignore_errors=True)
    recorded = Path(f"{to}.dvc")
    before = recorded.read_text(encoding="utf-8") if recorded.exists() else ""
    tracked = _track(to, kind)
    if not before:
        note_origin(recorded, origin)
        return tracked
    same = read_yaml(recorded)["outs"] == YAML(typ="safe", pure=True).load(before)["outs"]
    recorded.write_text(before, encoding="utf-8")
    if not same:
        shutil.rmtree(to) if to.is_dir() else to.unlink()
        action = f"`dvc pull` the recorded files; or `dvc remove {shlex.quote(str(recorded))}`, then fetch again"
        raise BaseError(
            snapshot.shown, f"has other content than {recorded} records, so the download is deleted", action
        )
    return []


def note_origin(dvc_file: Path, origin: sources.Origin) -> None:
    """Write into a ``.dvc`` file where its content came from; DVC keeps ``meta`` and ignores it."""
    half = "  half: true\n" if origin.half else ""
    with open(dvc_file, "a", encoding="utf-8") as file:  # quoted: 123e456… is a number in YAML
        file.write(f'meta:\n  from: "{origin.source}"\n  revision: "{origin.revision}"\n{half}')


def _track(to: Path, kind: str) -> list[Path]:
    """Let DVC track a model and, for a single file, the configuration beside it."""
    tracked = [path for path in (to, *(map(to.with_suffix, BESIDE) if _is_single(to) else ())) if path.exists()]
    track(tracked, f"fix that, then run `dvc add {shlex.join(map(str, tracked))}`")
    say(f"{to}: {kind}, tracked by DVC")
    return tracked


def _checked(brought: Path, source: str) -> str:
    """The kind of the model at ``brought``; an error names the source, not this temporary path."""
    beside = str(brought.with_suffix(".config"))
    try:
        return kind_of(brought)
    except BaseError as error:
        action = error.action
        if beside in action:
            name = Path(beside).name
            action = f"download {brought.name} to a folder of yours, put the configuration beside it as {name}, "
            action += "and bring that file with --from"
        raise BaseError(source, error.fault, action) from error


def _refuse_existing(to: Path) -> None:
    inside = Path.cwd().resolve() in to.resolve().parents
    if not inside:
        raise BaseError(to, "is outside the repository", "choose a --to below models/")
    for path in (to, *map(to.with_suffix, BESIDE)):
        record = Path(f"{path}.dvc")
        remove, another = f"`dvc remove {shlex.quote(str(record))}`", "choose another --to"
        if path.exists():
            action = f"{another}, or {remove} and delete {path}" if record.exists() else f"{another}, or delete {path}"
            raise ConflictError(path, "is there already", action)
        if record.exists():
            action = f"get it with `dvc pull {shlex.quote(str(record))}`, {another}, or {remove}"
            raise ConflictError(record, f"records {path}, which is not here", action)


@contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """A temporary path beside ``to``, moved there at the end with its ``.config`` folder; deleted on an error."""
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(dir=to.parent, prefix=f".{to.stem}-"))
    try:
        yield folder / to.name
        for path in sorted(folder.iterdir()):
            os.replace(path, to.parent / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
