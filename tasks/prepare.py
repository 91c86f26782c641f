"""From people's picture files to training pictures: ``data/<set>/prepared/`` with ``images.json``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.params import Schema, image_folder, pick
from etude.core.prepared import is_copy
from etude.images.settings import Prepare
from tasks.shell import publish, run
from tasks.shell.console import first_of, progress, say, shorten, warn

if TYPE_CHECKING:
    from etude.images.preparation import Preparation

__all__ = ["Prepare", "StageParams", "prepare"]


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    prepare: Prepare


def prepare(name: str) -> None:
    """Prepare the pictures of the image set NAME; params.yaml names their folder."""
    settings, folder = pick("params.yaml", StageParams).prepare, image_folder(name)
    from etude.core.workers import in_order
    from etude.images.folder import choose_pictures, list_folder
    from etude.images.preparation import Preparation

    found, others = list_folder(folder)
    files = choose_pictures(found)
    with publish(Path("data", name, "prepared")) as out:
        preparation = Preparation(out, settings)
        for file, fault in others.items():
            preparation.leave_out(file, InputError(f"{folder}/{file}", fault, "correct or remove it"))
        pairs = [(folder / file, folder / mask if mask else None) for file, mask in files.items()]
        with closing(in_order(preparation.cutter, pairs)) as made:
            for file, cuts in zip(progress(list(files), f"{name}: prepare"), made, strict=True):
                preparation.add(file, cuts, files[file])
        _refuse_nothing(folder, len(files) + len(others), preparation)
        preparation.add_copies()
        listing = preparation.listing()
        write_json(out / "images.json", listing)
    _tell(name, len(files), listing)


def _refuse_nothing(folder: Path, files: int, preparation: Preparation) -> None:
    if preparation.images:
        return
    if not files:
        raise InputError(folder, "holds no pictures", "put pictures there (PNG, JPEG, WebP, …)")
    first, reason = next(iter(preparation.skipped.items()))
    fault = f"none of its {files} files can be used as a picture; {shorten(first)}: {reason}"
    raise InputError(folder, fault, "put usable pictures there, or change `prepare` in params.yaml")


def _tell(name: str, files: int, listing: dict[str, Any]) -> None:
    images = [image for image in listing["images"].values() if not is_copy(image)]
    copies = len(listing["images"]) - len(images)
    say(f"{name}: {len(images) + copies} pictures ({copies} of them copies) from {files} files")
    if cut := sum(image["crop"] != [0, 0, *image["source_size"]] for image in images):
        say(f"{name}: {cut} of them show a part of their picture; to see which: etude crops {name}")
    _list(name, "left out", [f"{shorten(file)} ({reason})" for file, reason in listing["skipped"].items()])
    _list(name, "the same pixels as another", [_join(" = ", pair) for pair in listing["duplicates"].items()])
    _list(name, "nearly the same", [_join(" ~ ", pair) for pair in _sources(listing)])
    _list(name, "enlarged", [image["sources"][0] for image in images if image["enlarged"]])
    for side, reasons in listing.get("not_at", {}).items():
        for reason, without in reasons.items():
            _list(name, f"not at {side} px ({reason})", without)
    files_of: dict[str, list[str]] = {}
    for file, notes in listing.get("notes", {}).items():
        for note in notes:
            files_of.setdefault(note, []).append(file)
    for note, noted in sorted(files_of.items()):
        _list(name, note, noted)


def _join(sign: str, names: Sequence[str]) -> str:
    return sign.join(map(shorten, names))


def _sources(listing: dict[str, Any]) -> list[list[str]]:
    """The pairs of near duplicates, by their file names."""

    def source(identifier: str) -> str:
        name: str = listing["images"][identifier]["sources"][0]
        return name

    return [list(map(source, pair)) for pair in listing["near_duplicates"]]


def _list(name: str, finding: str, cases: list[str]) -> None:
    """Warn of as many cases as fit in a line; images.json names all."""
    if cases:
        warn(f"{name}: {finding}: {len(cases)}: {first_of(cases)}")


if __name__ == "__main__":
    run(prepare)
