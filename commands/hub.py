"""A hub's repository at a commit: the files that a model is loaded from, their sizes, and their download.

An interrupted download continues where it was, also within a file. A file counts as fetched only when its hash equals
the one that the hub reports.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from etude.base.family import UNCLIP_PARTS, VARIATION_PARTS
from etude.captions import deepdanbooru, wd14
from etude.core.errors import BaseError
from etude.core.families import FAMILIES
from tasks.shell.console import say

WAITING = Path(".scratch/fetch")  # partial downloads; safe to delete
WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)(\.fp16)?(-\d+-of-\d+)?\.(safetensors|bin)")
INDEX = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)\.(safetensors|bin)\.index(\.fp16)?\.json")
TAGGERS = (wd14.NETWORK, wd14.TABLE, deepdanbooru.FILE)
WORDS = (".json", ".txt", ".jinja", ".model")  # configurations, tokenizers, the form of a chat
PAPERS = ("LICENSE", "README")
COMMIT = re.compile(r"[0-9a-f]{40}")
CHUNK = 1 << 20  # bytes hashed at a time


class Remote(NamedTuple):
    """A file of the repository: its name, size in bytes, and the hash of its content."""

    name: str
    size: int
    digest: str  # SHA-256 of files in Git LFS (64 digits), git's own SHA-1 of the others (40)


class Snapshot(NamedTuple):
    """The files to fetch from a repository at a commit."""

    repository: str
    revision: str
    files: tuple[Remote, ...]
    folder: Path  # where it is fetched to

    @property
    def shown(self) -> str:
        """The repository and the commit, in short."""
        return f"{self.repository}@{self.revision[:8]}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def here(self) -> int:
        """Bytes that an earlier try fetched."""
        paths = [self.folder / file.name for file in self.files]
        return sum(each.stat().st_size for path in paths for each in (path, part_of(path)) if each.exists())


def part_of(path: Path) -> Path:
    """The path of a file until its download is complete."""
    return path.with_name(path.name + ".part")


def needed(names: Iterable[str], half: bool = False) -> list[str]:
    """The names of the files from which a base, a CLIP or a captioner is loaded; each set of weights only once.

    safetensors are preferred to pickles, full precision to half unless ``half``; if one is missing, the other is taken.
    If there are files of a tagger, only these are taken, with licence and README.
    """
    names = list(names)
    if tagger := {name for name in names if name in TAGGERS}:
        if tagger == {wd14.TABLE}:  # in timm's form
            tagger |= {wd14.CONFIG, wd14.WEIGHTS} & set(names)
        return sorted({*tagger, *(name for name in names if name.upper().startswith(PAPERS))})
    chosen: list[str] = []
    by_folder: dict[str, list[str]] = {}
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        by_folder.setdefault(folder, []).append(file)
    more = UNCLIP_PARTS if "image_normalizer" in by_folder else () if "text_encoder" in by_folder else VARIATION_PARTS
    parts = dict.fromkeys(folder for family in FAMILIES.values() for folder in family.folders)
    for folder in ("", *parts, "clip", *more):
        files = by_folder.get(folder, [])
        weights = [file for file in files if WEIGHTS.fullmatch(file) or INDEX.fullmatch(file)]
        for mark, want in ((".safetensors", True), (".fp16", half)):
            weights = [file for file in weights if (mark in file) == want] or weights
        words = [file for file in files if file.endswith(WORDS) and ".index." not in file]
        papers = [file for file in files if not folder and file.upper().startswith(PAPERS)]
        chosen += [f"{folder}/{file}".lstrip("/") for file in sorted({*weights, *words, *papers})]
    return chosen


def look(source: str, revision: str, half: bool = False) -> Snapshot:
    """The files of ``owner/name`` at a commit that a model is loaded from, or the one file ``owner/name/file``.

    Raises BaseError.
    """
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    repository = f"{owner}/{name}"
    if not name:
        raise BaseError(
            source, "is neither a path that exists nor the id of a model on the hub (owner/name)", "correct --from"
        )
    if not COMMIT.fullmatch(revision):
        fault = "is not a path that exists; a model of the hub also needs its commit, since branches change"
        action = "correct the path, or give --revision the commit's 40 hex digits, from the model's page of commits"
        raise BaseError(source, fault, action)
    from huggingface_hub import HfApi

    with _told(f"{repository}@{revision[:8]}"):
        listed = HfApi().model_info(repository, revision=revision, files_metadata=True).siblings or []
    known = {}
    for entry in listed:
        digest = entry.lfs.sha256 if entry.lfs else str(entry.blob_id)
        known[entry.rfilename] = Remote(entry.rfilename, entry.size or 0, digest)
    wanted = [file] if file else needed(known, half)
    if not wanted or set(wanted) - set(known):
        fault = f"has no {file}" if file else "has none of the files that a base, a CLIP or a captioner is loaded from"
        raise BaseError(f"{repository}@{revision[:8]}", fault, "check the id, the commit and the file's name")
    folder = WAITING / f"{owner}--{name}@{revision[:12]}{'-half' if half else ''}"
    return Snapshot(repository, revision, tuple(known[name] for name in wanted), folder)


def download(snapshot: Snapshot) -> Path:
    """Download the snapshot into its folder; continues where an earlier try stopped. Raises BaseError."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    _refuse_full_disk(snapshot)
    for file in snapshot.files:
        path = snapshot.folder / file.name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with _told(snapshot.shown), open(part_of(path), "ab") as part:
            if part.tell() > file.size:
                part.truncate(0)
            http_get(
                hf_hub_url(snapshot.repository, file.name, revision=snapshot.revision),
                part,
                resume_size=part.tell(),
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.name,
            )
        if digest(part_of(path), file.digest) != file.digest:
            part_of(path).unlink()
            fault = f"the checksum of the downloaded {file.name} is not that of the hub, so it is deleted"
            raise BaseError(snapshot.shown, fault, "run this again: only that file is fetched again")
        os.replace(part_of(path), path)
    return snapshot.folder


def digest(path: Path, like: str) -> str:
    """A file's hash, of the same kind as ``like``: SHA-256, or git's hash of a blob."""
    found = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(like) != 64:
        found.update(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            found.update(block)
    return found.hexdigest()


def told_size(count: int) -> str:
    """Bytes in readable form: ``4.3 GB``, ``12 kB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count} bytes"


def tell(wanted: dict[Path, Snapshot]) -> None:
    """Print what is going to be fetched, from where, and its size."""
    for to, snapshot in wanted.items():
        here = f", {told_size(snapshot.here)} of it here already" if snapshot.here else ""
        count = f"{len(snapshot.files)} files" if len(snapshot.files) > 1 else "1 file"
        say(f"{to}: {told_size(snapshot.size)} in {count} from {snapshot.shown}{here}")
    left = sum(snapshot.size - snapshot.here for snapshot in wanted.values())
    free = shutil.disk_usage(".").free
    say(f"to fetch: {told_size(left)}; free on this disk: {told_size(free)}. DVC's cache may take as much again.")


def _refuse_full_disk(snapshot: Snapshot) -> None:
    left, free = snapshot.size - snapshot.here, shutil.disk_usage(".").free
    if left > free:
        fault = f"the download needs {told_size(left)}, and only {told_size(free)} are free on this disk"
        raise BaseError(snapshot.shown, fault, "free some space, then run this again: what is fetched already is kept")


@contextmanager
def _told(shown: str) -> Iterator[None]:
    """Turn an error of a hub or the network into one line that says what to do."""
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # an error of the disk, reported as such
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        action = (
            "check the network, the id and the commit (a gated model needs `hf auth login`), then run this again: "
            "the download continues. Or download the model yourself, and give its path as --from"
        )
        raise BaseError(shown, f"cannot be fetched ({reason})", action) from error
