"""A caption for each training picture: ``data/<set>/captioned/`` with ``captions.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from etude.captions.settings import CAPTIONERS, NONE, Caption, Captioner, Words
from etude.core.code import code_digests, versions
from etude.core.files import read_json, sha256_file, write_json
from etude.core.params import Schema, image_folder, pick
from etude.core.prepared import is_copy, original
from etude.core.store import Store, key, load, remembered_tree, save
from tasks.shell import publish, run
from tasks.shell.console import first_of, progress, say, shorten, warn

if TYPE_CHECKING:
    from etude.core.beside.captions import Captions

__all__ = ["Caption", "StageParams", "caption"]
# The code and the packages that describe a picture.
_CLIP = ("bounds", "clip", "damage", "libraries")
CODE = ("etude/captions", *(f"etude/base/{name}.py" for name in _CLIP), "etude/core")
LIBRARIES = ("torch", "transformers", "tokenizers", "onnxruntime", "onnxruntime-gpu", "timm", "numpy", "pillow")
AND = " + "  # between the origins of a caption that has several
# Readable names for the places of captions: those of `ORIGINS`, and a file's name.
PLACES = {
    "file": "text files",
    "sidecar": "JSON files beside pictures",
    "listing": "files for all pictures",
    "picture": "prompts in pictures",
    "folder": "names of folders",
    "name": "file names",
}


class Text(NamedTuple):
    """The text that describes a picture, and where it comes from."""

    text: str
    origin: str
    file: str | None = None  # where it was found


Texts = dict[str, Text]  # by the ids of pictures


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    caption: Caption
    device: str
    threads: int


def caption(name: str) -> None:
    """Caption the prepared pictures of the image set NAME. Captions that exist in its folder are used first."""
    stage_params, folder = pick("params.yaml", StageParams), image_folder(name)
    prepared = Path("data", name, "prepared")
    listing = read_json(prepared / "images.json")
    images: dict[str, dict[str, Any]] = listing["images"]
    from etude.core.beside.captions import Captions
    from etude.images.folder import choose_pictures, list_files

    files = list_files(folder)
    captions = Captions(folder, files, choose_pictures(files))
    existing = existing_texts(captions, images, stage_params.caption)
    settings, own = stage_params.caption, [key for key, entry in images.items() if not is_copy(entry)]
    wanted = to_describe(own, existing, settings)
    texts = join_texts(existing, describe(prepared, wanted, stage_params), settings.existing)
    whole = {identifier: write_caption(identifier, entry, texts, settings) for identifier, entry in images.items()}
    with publish(Path("data", name, "captioned")) as out:
        for identifier, entry in whole.items():
            (out / f"{identifier}.txt").write_bytes(f"{entry['text']}\n".encode())
        write_json(out / "captions.json", whole)
    _tell(name, images, whole, settings)
    _tell_files(name, captions, listing, {text.file for text in existing.values()})


def existing_texts(captions: Captions, images: dict[str, dict[str, Any]], settings: Caption) -> Texts:
    """The captions that exist: in the set's folder, or as the words of a file's name."""
    from etude.captions.names import words_of_name

    texts: Texts = {}
    if settings.existing == "ignore":
        return texts
    for identifier, entry in images.items():
        if is_copy(entry):
            continue
        if found := captions.find(entry["sources"]):
            texts[identifier] = Text(*found)
            continue
        for source in entry["sources"] if settings.file_names else []:
            if words := words_of_name(source):
                texts[identifier] = Text(words, "name", source)
                break
    return texts


def to_describe(identifiers: Iterable[str], existing: Texts, settings: Caption) -> list[str]:
    """The pictures that captioners describe: those without a caption, or all if both kinds are joined."""
    return [key for key in identifiers if key not in existing or settings.existing in ("prepend", "append")]


def join_texts(existing: Texts, described: Texts, order: str) -> Texts:
    """All texts. An existing text and a captioner's for the same picture are joined in the ``order`` of `existing`."""
    texts = described | existing
    for identifier in existing.keys() & described.keys():
        one, other = existing[identifier], described[identifier]
        if order == "append":
            one, other = other, one
        both = _together([one.text, other.text])
        texts[identifier] = Text(both, AND.join([one.origin, other.origin]), existing[identifier].file)
    return texts


def describe(prepared: Path, identifiers: list[str], stage_params: StageParams, ask: bool = True) -> Texts:
    """Captions by the captioners, in their order; without pictures, no model is loaded.

    With ``ask`` False, no model is loaded, and only captions from the store are returned.
    """
    captioners = [CAPTIONERS[kind] for kind in stage_params.caption.captioners]
    if not captioners or not identifiers:
        return dict.fromkeys(identifiers, Text("", NONE))
    import torch

    from etude.core.randomness import make_deterministic

    make_deterministic(stage_params.threads)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    device = best if stage_params.device == "auto" else stage_params.device
    pictures = [prepared / f"{identifier}.png" for identifier in identifiers]
    described: dict[str, list[str | None]] = {identifier: [] for identifier in identifiers}
    for captioner in captioners:  # one after the other, so that only one model is in memory
        texts = _texts_of(captioner, pictures, stage_params, device, ask)
        for identifier, text in zip(identifiers, texts, strict=True):
            described[identifier].append(text)
    origin = AND.join(captioner.kind for captioner in captioners)
    known = {identifier: texts for identifier, texts in described.items() if None not in texts}
    return {identifier: Text(_together(texts), origin) for identifier, texts in known.items()}


def _texts_of(
    captioner: Captioner, pictures: list[Path], stage_params: StageParams, device: str, ask: bool
) -> list[str | None]:
    """A captioner's text for each picture. Earlier texts are in the store.

    Without ``ask``, the text is None if it is not in the store.

    The key has everything that a text depends on: the picture, the captioner's model and settings, code, libraries,
    device and threads.
    """
    settings = stage_params.caption
    captioner.refuse_missing(settings)
    block, model = getattr(settings, captioner.settings), settings.captioners[captioner.kind]
    files = [remembered_tree(model), sha256_file(block.file) if isinstance(block, Words) else None]
    by = (captioner.kind, files, block.model_dump(), code_digests(*CODE), versions(*LIBRARIES))
    store, context = Store("captions"), key(*by, device, stage_params.threads)
    places = [store.path(key(sha256_file(picture), context), ".entry") for picture in pictures]
    texts = {place: load(place) for place in places}
    new = {place: picture for place, picture in zip(places, pictures, strict=True) if texts[place] is None}
    if new and ask:  # otherwise no model is loaded
        found = captioner.describe(progress(list(new.values()), captioner.name), settings, device)
        for place, text in zip(new, found, strict=True):
            texts[place] = text
            save(place, text)
    return [texts[place] for place in places]


def _together(texts: Iterable[str | None]) -> str:
    return ", ".join(filter(None, texts))


def write_caption(identifier: str, image: Mapping[str, Any], texts: Texts, settings: Caption) -> dict[str, str]:
    """The final caption of a picture; ``image`` is its entry in images.json.

    A copy has the caption of its picture; in that of a mirrored copy, left and right are exchanged.
    """
    from etude.captions.mirror import mirror

    text, origin, file = texts[original(identifier, image)]
    if image["flipped"]:
        text = mirror(text)
    parts = (settings.prefix.strip(), text, settings.suffix.strip())
    entry = {"text": " ".join(part for part in parts if part), "from": origin}
    return entry if file is None else {**entry, "file": file}


def _tell(name: str, images: dict[str, Any], whole: dict[str, dict[str, str]], settings: Caption) -> None:
    counts = Counter(entry["from"] for entry in whole.values())
    names = PLACES | {captioner.kind: captioner.name for captioner in CAPTIONERS.values()} | {NONE: "nowhere"}
    summary = []
    for origin, count in counts.most_common():
        summary.append(f"{count} from {' and '.join(names[part] for part in origin.split(AND))}")
    say(f"{name}: {len(whole)} captions: {', '.join(summary)}")
    if settings.file_names:
        _tell_silent(name, images, whole)
    empty = sum(not entry["text"] for entry in whole.values())
    if empty:
        warn(f"{name}: {empty} captions are empty")


def _tell_silent(name: str, images: dict[str, Any], whole: dict[str, dict[str, str]]) -> None:
    """Print how many pictures have neither an existing caption nor a name that describes them."""
    silent = [images[key]["sources"][0] for key, entry in whole.items() if "file" not in entry]
    silent = list(dict.fromkeys(silent))  # a copy has the same file as its picture
    if silent:
        say(f"{name}: {len(silent)} names do not describe a picture, such as {silent[0]}; a .txt beside it would")


def _tell_files(name: str, captions: Captions, listing: dict[str, Any], found: set[str | None]) -> None:
    """Name files with faults, and files that neither *prepare* nor this stage uses, by suffix."""
    from etude.images.folder import name_unused, prepared_files

    for faults, what, action in (
        (captions.faults, "are left out", "correct these files; save texts as UTF-8"),
        (captions.notes, "are used, but may be read wrongly", "look at their captions in captions.json"),
    ):
        if faults:
            cases = [f"{shorten(PurePosixPath(file).name)} ({fault})" for file, fault in sorted(faults.items())]
            warn(f"{captions.folder}: {len(cases)} files with captions {what}: {first_of(cases)}. Next: {action}")
    used = prepared_files(listing).union(filter(None, found), captions.faults)
    if unused := name_unused(captions.files, used):
        warn(f"{name}: files that are not used: {first_of(unused)}")


if __name__ == "__main__":
    run(caption)
