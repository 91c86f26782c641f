"""A caption for each training picture: ``data/<set>/captioned/`` with ``captions.json``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from etude.captions.settings import CAPTIONERS, NONE, Caption
from etude.core.errors import InputError
from etude.core.files import read_json, write_json
from etude.core.params import Schema, image_folder, pick
from tasks.shell import publish, run
from tasks.shell.console import first_of, progress, say, shorten, warn

__all__ = ["Caption", "StageParams", "caption"]
FLIP = "-flip"  # suffix of the id of a mirrored copy
Texts = dict[str, tuple[str, str]]  # id of a picture → its text, and the origin of the text


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    caption: Caption
    device: str
    threads: int


def caption(name: str) -> None:
    """Caption the prepared pictures of the image set NAME. Texts in the folder of its pictures are used first."""
    stage_params, folder = pick("params.yaml", StageParams), image_folder(name)
    prepared = Path("data", name, "prepared")
    listing = read_json(prepared / "images.json")
    images: dict[str, dict[str, Any]] = listing["images"]
    from etude.core.beside import find_captions
    from etude.images.folder import list_files

    files = list_files(folder)
    captions = find_captions(files)
    texts = _written(folder, captions, images, stage_params.caption)
    unnamed = [identifier for identifier, entry in images.items() if not entry["flipped"] and identifier not in texts]
    texts |= _described(prepared, unnamed, stage_params)
    whole = {identifier: _whole(identifier, texts, stage_params.caption) for identifier in images}
    with publish(Path("data", name, "captioned")) as out:
        for identifier, entry in whole.items():
            (out / f"{identifier}.txt").write_text(entry["text"] + "\n", encoding="utf-8")
        write_json(out / "captions.json", whole)
    _tell(name, images, whole, stage_params.caption)
    _tell_unused(name, files, captions, listing)


def _written(folder: Path, captions: dict[str, str], images: dict[str, dict[str, Any]], settings: Caption) -> Texts:
    """The captions that people wrote for pictures: in a .txt file beside one of its files, or in a file's name."""
    from etude.captions.names import words_of_name
    from etude.core.beside import read_beside

    texts, unreadable = {}, []
    for identifier, entry in images.items():
        if entry["flipped"]:
            continue
        try:
            beside = read_beside(folder, entry["sources"], captions)
        except InputError as error:  # one bad file stops nothing; the picture is captioned as if it were not there
            beside = None
            unreadable.append(f"{shorten(Path(error.place).name)} ({error.fault})")
        named = (words for source in entry["sources"] if settings.file_names and (words := words_of_name(source)))
        if beside is not None:
            texts[identifier] = (beside, "file")
        elif words := next(named, None):
            texts[identifier] = (words, "name")
    if unreadable:
        warn(f"{folder}: {len(unreadable)} texts are left out: {first_of(unreadable)}. Next: save them as UTF-8")
    return texts


def _described(prepared: Path, identifiers: list[str], stage_params: StageParams) -> Texts:
    """Captions by the captioner, for pictures without a written one; if there are none, it is not loaded."""
    captioner = CAPTIONERS.get(stage_params.caption.captioner)
    if captioner is None or not identifiers:
        return dict.fromkeys(identifiers, ("", NONE))
    import torch

    from etude.core.randomness import make_deterministic

    make_deterministic(stage_params.threads)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    device = best if stage_params.device == "auto" else stage_params.device
    pictures = progress([prepared / f"{identifier}.png" for identifier in identifiers], "captions")
    texts = captioner.describe(pictures, stage_params.caption, device)
    return {identifier: (text, captioner.kind) for identifier, text in zip(identifiers, texts, strict=True)}


def _whole(identifier: str, texts: Texts, settings: Caption) -> dict[str, str]:
    """The final caption of a picture. A mirrored copy has the caption of its picture with left and right exchanged."""
    from etude.captions.mirror import mirror

    text, origin = texts[identifier.removesuffix(FLIP)]
    if identifier.endswith(FLIP):
        text = mirror(text)
    parts = (settings.prefix.strip(), text, settings.suffix.strip())
    return {"text": " ".join(part for part in parts if part), "from": origin}


def _tell(name: str, images: dict[str, Any], whole: dict[str, dict[str, str]], settings: Caption) -> None:
    counts = Counter(entry["from"] for entry in whole.values())
    origins = {"file": "from .txt files", "name": "from file names"}
    origins |= {captioner.kind: f"from {captioner.name}" for captioner in CAPTIONERS.values()}
    origins |= {NONE: "without a text"}
    summary = ", ".join(f"{counts[origin]} {words}" for origin, words in origins.items() if counts[origin])
    say(f"{name}: {len(whole)} captions: {summary}")
    if settings.file_names:
        _tell_silent(name, images, whole)
    empty = sum(not entry["text"] for entry in whole.values())
    if empty:
        warn(f"{name}: {empty} captions are empty")


def _tell_silent(name: str, images: dict[str, Any], whole: dict[str, dict[str, str]]) -> None:
    """How many pictures have no caption beside them, and a name that does not describe them."""
    silent = [images[key]["sources"][0] for key, entry in whole.items() if entry["from"] not in ("file", "name")]
    silent = list(dict.fromkeys(silent))  # a mirrored copy has its picture's
    if silent:
        say(f"{name}: {len(silent)} names do not describe a picture, such as {silent[0]}; a .txt beside it would")


def _tell_unused(name: str, files: list[str], captions: dict[str, str], listing: dict[str, Any]) -> None:
    """Name what is in the folder and neither *prepare* nor this stage uses or has named, by suffix."""
    from etude.core.beside import captions_of
    from etude.images.folder import kohya_folders, name_unused

    used = set(listing["skipped"])  # *prepare* names these
    for entry in listing["images"].values():
        used.update(entry["sources"])
        if "attention" in entry:
            used.add(str(PurePosixPath(entry["sources"][0]).with_name(entry["attention"])))
    used.update(captions_of(used, captions))
    if unused := name_unused(files, used):
        warn(f"{name}: files that are not used: {first_of(unused)}. Captions are read from .txt beside a picture alone")
    if folders := kohya_folders(used):
        warn(f"{name}: repeats and prompts in folders' names are not read: {first_of(folders)}")


if __name__ == "__main__":
    run(caption)
