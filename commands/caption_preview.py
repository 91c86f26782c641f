"""What the present `caption` settings would change in the captions of a set, before *caption* runs again.

Captions that exist are read again. Earlier texts of captioners, with the same settings, are in the store. Other texts
are unknown until captioners run: they run on as many pictures as the user wants, and the store keeps their texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from etude.core.beside.captions import Captions
from etude.core.files import read_json, replace_folder
from etude.core.params import image_folder, pick
from etude.core.prepared import is_copy
from etude.images.folder import choose_pictures, list_files
from etude.inspection.contents import read_set
from etude.inspection.looks import Looks
from etude.inspection.tokens import measure_text
from etude.pages.environment import environment
from tasks import set_page
from tasks.caption import StageParams, describe, existing_texts, join_texts, to_describe, write_caption

PAGES = Path("logs/captions")
SHOWN = 120  # changes on the page
TAGS, WORDS = re.compile(r",\s*|[^,]+"), re.compile(r"\s+|,|[^\s,]+")


@dataclass(frozen=True)
class Change:
    """A picture's caption, as it is and as it would be; None if a captioner would have to run."""

    name: str  # the picture's file
    old: str
    new: str | None


@dataclass(frozen=True)
class Preview:
    """All captions of a set, copies left out."""

    changes: Sequence[Change]

    @property
    def changed(self) -> list[Change]:
        """The captions that would change."""
        return [change for change in self.changes if change.new not in (change.old, None)]

    @property
    def unknown(self) -> int:
        """How many captions are unknown until a captioner runs."""
        return sum(change.new is None for change in self.changes)


def preview(name: str, ask: int) -> Preview:
    """Compare the captions of the image set ``name`` with those that params.yaml would give now.

    Captioners are asked about ``ask`` of the pictures that need them, evenly chosen. Raises InputError where the set
    was not captioned.
    """
    stage_params, folder = pick("params.yaml", StageParams), image_folder(name)
    settings, prepared = stage_params.caption, Path("data", name, "prepared")
    entries: dict[str, dict[str, str]] = read_json(Path("data", name, "captioned", "captions.json"))
    listing: dict[str, dict[str, Any]] = read_json(prepared / "images.json")["images"]
    images = {key: entry for key, entry in listing.items() if not is_copy(entry) and key in entries}
    files = list_files(folder)
    existing = existing_texts(Captions(folder, files, choose_pictures(files)), images, settings)
    wanted = to_describe(images, existing, settings)
    described = describe(prepared, wanted, stage_params, ask=False)
    rest = [key for key in wanted if key not in described]
    asked = [rest[place * len(rest) // ask] for place in range(ask)] if ask < len(rest) else rest
    described |= describe(prepared, asked, stage_params)
    texts = join_texts(existing, described, settings.existing)
    unknown = set(rest) - described.keys()
    changes = []
    for key, entry in images.items():
        new = None if key in unknown else write_caption(key, entry, texts, settings)["text"]
        changes.append(Change(entry["sources"][0], entries[key]["text"], new))
    return Preview(sorted(changes, key=lambda change: change.name))


def draw_preview(name: str, seen: Preview) -> Path:
    """Write a page with the first changes of ``seen``, each with its picture; returns its path."""
    chunks = pick("params.yaml", set_page.StageParams).text.chunks
    contents = read_set(name, image_folder(name), Path("data", name), chunks)
    looks = Looks(name, contents.folder, Path("data", name, "prepared"))
    shown = []
    for change in seen.changed[:SHOWN]:
        length = measure_text(change.new or "", contents.read)
        picture = {"name": change.name, "tile": looks.tile(contents.pictures[change.name]), "cut": length.cut}
        shown.append(picture | {"tokens": length.tokens, "parts": list(compare(change.old, change.new or ""))})
    values = {"set": name, "seen": seen, "shown": shown, "total": len(seen.changes)}
    with replace_folder(PAGES / name) as out:
        (out / "index.html").write_text(environment().get_template("captions.html").render(values), encoding="utf-8")
    return PAGES / name / "index.html"


def compare(old: str, new: str) -> Iterator[tuple[str, str]]:
    """The pieces of both texts in order, each marked as ``same``, ``gone`` or ``new``."""
    pieces_of = TAGS if "," in old and "," in new else WORDS
    before, after = pieces_of.findall(old), pieces_of.findall(new)
    for what, start, end, first, last in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what == "equal":
            yield "same", "".join(after[first:last])
            continue
        for kind, pieces in (("gone", before[start:end]), ("new", after[first:last])):
            if pieces:
                yield kind, "".join(pieces)
