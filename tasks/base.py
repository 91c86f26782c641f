"""Bring a base model, or the CLIP that evaluation looks with, into the repository, where DVC tracks it.

From a hub at a commit, or from a folder or file on this machine. A base outside the repository could change unseen, and
a past experiment without its base cannot be reproduced.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Annotated

import typer

from etude.diffusion.checkpoint import SUFFIXES, refuse_pointer
from etude.diffusion.family import UNCLIP_PARTS, VARIATION_PARTS, read_config, recognise, weight_files
from etude.errors import BaseError, ConflictError
from tasks import run
from tasks.console import say
from tasks.tracking import track

FOLDERS = ("", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "clip")
WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)(\.fp16)?(-\d+-of-\d+)?\.(safetensors|bin)")
INDEX = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)\.(safetensors|bin)\.index(\.fp16)?\.json")
COMMIT = re.compile(r"[0-9a-f]{40}")


def base(
    source: Annotated[str, typer.Option("--from", help="hub id, hub id/file, or a folder or file here")],
    to: Annotated[Path, typer.Option(help="where it goes: a path below models/")],
    revision: Annotated[str, typer.Option(help="the commit, 40 hex digits, when it comes from a hub")] = "",
    half: Annotated[bool, typer.Option("--half", help="take the fp16 files where there are any")] = False,
) -> None:
    """Fetch or copy a base model to TO, check it, and let DVC track it. Nothing existing is overwritten."""
    local = Path(source).expanduser()
    single = PurePosixPath(source).suffix in SUFFIXES
    if single and to.suffix != local.suffix:
        to = to.with_name(to.name + local.suffix)
    _refuse_existing(to)
    with _draft(to) as draft:
        if local.exists():
            kind_of(local)
            copy(local, draft, half)
        else:
            fetch(source, revision, draft, half)
        kind = _checked(draft, source)
    tracked = [path for path in (to, to.with_suffix(".config")) if path.exists()]
    track(tracked, f"mend that, then run `dvc add {' '.join(map(str, tracked))}`")
    if revision and not local.exists():
        note_origin(Path(f"{to}.dvc"), source, revision)
    say(f"{to}: {kind}; tracked by DVC. Next: git add {' '.join(f'{path}.dvc' for path in tracked)}")


def kind_of(path: Path) -> str:
    """``sd1``, ``sd2``, ``sdxl`` or ``clip``; raises BaseError for anything else."""
    config = path / "config.json"
    if not config.is_file() or read_config(config).get("model_type") != "clip":
        return recognise(path)
    weights = weight_files(path)[0]
    wanted = ("preprocessor_config.json", "vocab.json", "merges.txt")
    missing = [name for name in wanted if not (path / name).exists()] + ([] if weights else ["model.safetensors"])
    if missing:
        raise BaseError(path, f"is a CLIP that lacks {', '.join(missing)}", "fetch it again, whole")
    for file in weights:
        refuse_pointer(file)
    return "clip"


def needed(names: Iterable[str], half: bool = False) -> list[str]:
    """Of a repository's file names, those that a base or a CLIP is loaded from; each model's weights once.

    safetensors before pickles; full precision unless ``half``, and the other of the two where one is missing.
    """
    chosen: list[str] = []
    by_folder: dict[str, list[str]] = {}
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        by_folder.setdefault(folder, []).append(file)
    told = UNCLIP_PARTS if "image_normalizer" in by_folder else () if "text_encoder" in by_folder else VARIATION_PARTS
    for folder in (*FOLDERS, *told):
        files = by_folder.get(folder, [])
        weights = [file for file in files if WEIGHTS.fullmatch(file) or INDEX.fullmatch(file)]
        for mark, want in ((".safetensors", True), (".fp16", half)):
            weights = [file for file in weights if (mark in file) == want] or weights
        words = [file for file in files if file.endswith((".json", ".txt")) and ".index." not in file]
        papers = [file for file in files if not folder and file.upper().startswith(("LICENSE", "README"))]
        chosen += [f"{folder}/{file}".lstrip("/") for file in sorted({*weights, *words, *papers})]
    return chosen


def copy(source: Path, target: Path, half: bool = False) -> None:
    """Copy a single file (with the ``.config`` folder beside it), or what is needed of a folder."""
    if source.is_file():
        shutil.copyfile(source, target)
        if source.with_suffix(".config").is_dir():
            shutil.copytree(source.with_suffix(".config"), target.with_suffix(".config"))
        return
    present = (file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
    for name in needed(present, half):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def fetch(source: str, revision: str, target: Path, half: bool = False) -> None:
    """Download what is needed of a hub's repository at a commit, or one file of it (``owner/name/file``)."""
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not name:
        raise BaseError(source, "is no path here and no hub id (owner/name)", "correct --from")
    if not COMMIT.fullmatch(revision):
        fault = "a hub's branches move: what is fetched today would be another base tomorrow"
        raise BaseError(
            f"{owner}/{name}", fault, "give --revision the commit's 40 hex digits, from its page of commits"
        )
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    repository = f"{owner}/{name}"
    folder = target if not file else target.with_name(target.name + "-download")
    try:
        wanted = [file] if file else needed(HfApi().list_repo_files(repository, revision=revision), half)
        snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=wanted)
        if file:
            shutil.move(folder / file, target)
    except (HTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        action = "check the network, the id and the commit (a gated one needs `hf auth login`), or --from a local copy"
        raise BaseError(f"{repository}@{revision[:8]}", f"cannot be fetched ({reason})", action) from error
    finally:
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the download's own notes
        if file:
            shutil.rmtree(folder, ignore_errors=True)


def note_origin(dvc_file: Path, source: str, revision: str) -> None:
    """Write into a ``.dvc`` file where its content came from; DVC keeps ``meta`` and reads nothing in it."""
    with open(dvc_file, "a", encoding="utf-8") as file:
        file.write(f'meta:\n  from: "{source}"\n  revision: "{revision}"\n')  # quoted: 123e456… is a number in YAML


def _checked(draft: Path, source: str) -> str:
    """The kind of what was brought; a fault names the source, not the draft that is about to go."""
    try:
        return kind_of(draft)
    except BaseError as error:
        raise BaseError(source, error.fault, error.action) from error


def _refuse_existing(to: Path) -> None:
    inside = Path.cwd().resolve() in to.resolve().parents
    if not inside:
        raise BaseError(to, "is outside the repository", "choose a path below models/")
    for path in (to, Path(f"{to}.dvc"), to.with_suffix(".config")):
        if path.exists():
            raise ConflictError(
                path, "is there already", f"choose another --to, or `dvc remove {to}.dvc` and delete it"
            )


@contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """A path beside ``to`` that becomes it at the end, with the ``.config`` folder beside it; gone on an error."""
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(dir=to.parent, prefix=f".{to.stem}-"))
    try:
        yield folder / to.name
        for path in sorted(folder.iterdir()):
            os.replace(path, to.parent / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(base)
