"""The pages of an image set: what to look at first, an overview, and all pictures, some on each page.

Everything is inside the pages, thumbnails included, so that they open from disk. 20,000 pictures have 167 pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

from etude.captions.settings import CAPTIONERS, NONE
from etude.inspection.contents import Caption, Contents, Picture
from etude.inspection.counts import (
    FEW,
    are_tags,
    count_lengths,
    count_origins,
    count_sizes,
    count_tags,
    count_training_sizes,
    count_words,
)
from etude.inspection.findings import Finding
from etude.inspection.looks import Looks
from etude.pages.environment import environment

ON_A_PAGE = 120  # pictures
SHOWN = 12  # thumbnails of a finding, and groups of equal or similar pictures; others are named
NAMED = 200  # other names in a list; pictures.csv has all names
AND = " + "  # between the origins of a caption that has several
ORIGINS = {
    "file": "text file",
    "sidecar": "JSON file beside the picture",
    "listing": "file for all pictures",
    "picture": "prompt in the picture",
    "folder": "folder’s name",
    "name": "file’s name",
    NONE: "nothing",
}


class Pages:
    """The pages of one set. They are rendered one at a time, because each contains its thumbnails."""

    def __init__(self, contents: Contents, looks: Looks, findings: Sequence[Finding]) -> None:
        self.contents, self.looks, self.findings = contents, looks, findings
        names = list(contents.pictures)
        self._pages = [names[start : start + ON_A_PAGE] for start in range(0, len(names), ON_A_PAGE)]
        self._places = {name: place for place, name in enumerate(names)}
        self._templates = environment()

    @property
    def files(self) -> list[str]:
        """The names of the pages' files, in order."""
        return ["index.html" if number == 0 else f"pictures-{number + 1}.html" for number in range(len(self._pages))]

    def render(self, number: int) -> str:
        """The page with this number, from 0 on, as HTML."""
        values = {
            "set": self.contents.name,
            "pictures": [self._picture(name) for name in self._pages[number]],
            "total": len(self._places),
            "first": number * ON_A_PAGE + 1,
            "number": number,
            "pages": list(zip(self.files, self._pages, strict=True)),
        }
        if number:
            return self._templates.get_template("image_set_pictures.html").render(values)
        return self._templates.get_template("image_set.html").render(values | self._overview())

    def _overview(self) -> dict[str, Any]:
        """What the first page shows besides its pictures."""
        contents = self.contents
        pictures = contents.pictures.values()
        captions = list(chain.from_iterable(picture.captions.values() for picture in pictures))
        tags, origins = are_tags(captions), count_origins(captions)
        same = {picture.name: f"= {', '.join(picture.same)}" for picture in pictures if picture.same}
        return {
            "c": contents,
            "folder": contents.folder.as_posix(),
            "trained": len(captions) + contents.copies,
            "read": contents.read,
            "findings": list(map(self._finding, self.findings)),
            "doubted": len(set(chain.from_iterable(finding.pictures for finding in self.findings))),
            "faults": _list({**contents.faults, **contents.doubts}),
            "skipped": _list(contents.skipped),
            "same": self._finding(Finding("The same pixels", "Of each, one file is used.", same)),
            "near": self._groups(contents.near),
            "tags": tags,
            "words": count_tags(captions) if tags else count_words(captions),
            "origins": {name_origin(origin): count for origin, count in origins.counts.items()},
            "different": len({caption.text for caption in captions}),
            "longest": max(caption.length.tokens for caption in captions),
            "lengths": count_lengths(captions),
            "sizes": count_sizes([picture.size for picture in pictures]),
            "by_side": len({picture.size for picture in pictures}) > FEW,
            "training_sizes": count_training_sizes(contents),
            "masks": sum("attention" in picture.first for picture in pictures),
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        names = list(finding.pictures)
        further = {name: finding.pictures[name] for name in names[SHOWN:]}
        return {
            "title": finding.title,
            "about": finding.about,
            "count": len(names),
            "shown": [self._thumbnail(name, finding.pictures[name]) for name in names[:SHOWN]],
            "further": _list(further) | {"links": {name: self._link(name) for name in names[SHOWN : SHOWN + NAMED]}},
        }

    def _groups(self, groups: Sequence[tuple[str, ...]]) -> dict[str, Any]:
        """Pictures that are alike: the first groups with thumbnails, the others by name."""
        shown = [list(map(self._thumbnail, group[:SHOWN])) for group in groups[:SHOWN]]
        sizes = map(len, groups)
        further = {group[0]: f"~ {', '.join(group[1:SHOWN])}" for group in groups[SHOWN:]}
        return {"count": len(groups), "shown": list(zip(sizes, shown, strict=False)), "further": _list(further)}

    def _thumbnail(self, name: str, more: str = "") -> dict[str, Any]:
        tile = self.looks.tile(self.contents.pictures[name])
        return {"name": name, "tile": tile, "link": self._link(name), "more": more}

    def _link(self, name: str) -> str:
        """The link to the picture in the list of all pictures."""
        place = self._places[name]
        return f"{self.files[place // ON_A_PAGE]}#p{place + 1}"

    def _picture(self, name: str) -> dict[str, Any]:
        picture = self.contents.pictures[name]
        captions = list(dict.fromkeys(picture.captions.values()))  # a split picture may have several
        return {
            "name": name,
            "same": picture.same,
            "tile": self.looks.tile(picture),
            "masks": self.looks.masks(picture),
            "size": "{}×{}".format(*picture.size),
            "about": _about(picture),
            "captions": list(map(_caption, captions)),
        }


def name_origin(origin: str) -> str:
    """The readable name of a caption's origin: ``file + wd14`` is ``text file and WD14``."""
    names = ORIGINS | {kind: captioner.name for kind, captioner in CAPTIONERS.items()}
    return " and ".join(names.get(part, part) for part in origin.split(AND))


def _about(picture: Picture) -> str:
    """How a file is used in training."""
    parts = ["{}×{}".format(*picture.target)]
    if len(picture.entries) > 1:
        parts[0] = f"{len(picture.entries)} of {parts[0]}"
    elif picture.kept < 1:
        parts.append(f"{picture.kept:.0%} kept")
    if picture.first["enlarged"]:
        parts.append("enlarged")
    if picture.repeats != 1:
        parts.append(f"counts {picture.repeats} times")
    return ", ".join(parts)


def _caption(caption: Caption) -> dict[str, Any]:
    cut = caption.length.cut
    return {
        "text": caption.text.removesuffix(cut),
        "cut": cut,
        "tokens": caption.length.tokens,
        "origin": name_origin(caption.origin),
        "file": caption.file,
    }


def _list(texts: Mapping[str, str]) -> dict[str, Any]:
    """The first texts by name, and the number of all texts."""
    return {"items": dict(islice(texts.items(), NAMED)), "count": len(texts)}
