"""Cuts of files become one set: named by content, identical ones are kept once, and unused files are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.core.errors import InputError
from etude.core.files import copy_file
from etude.images import faces
from etude.images.cuts import PLAIN, Cut, Cuts, Cutter
from etude.images.folder import mask_name
from etude.images.identity import Signature, near_duplicates
from etude.images.settings import Prepare

MASKS = "attention"  # the folder of masks in `out`


class Preparation:
    """Takes files one by one; ``out`` gets ``<id>.png``, the attributes get the content of ``images.json``.

    An id is the first 16 hex digits of the hash of a file's upright, opaque pixels, then ``-2``, ``-3``, … for further
    cuts of a split picture, ``-copy1``, … for copies, ``-512px`` for one of another resolution and ``-flip`` for a
    mirrored one. So a.png and a.jpg have different ids, and a picture keeps its id when it is renamed. (A large JPEG is
    decoded smaller before it is hashed, so its id may change with the resolution.)
    """

    def __init__(self, out: Path, settings: Prepare) -> None:
        self.out, self.settings, self.cutter = out, settings, Cutter(settings)
        self.images: dict[str, dict[str, Any]] = {}
        self.skipped: dict[str, str] = {}  # file: reason
        self.duplicates: dict[str, str] = {}  # file: the file with the same pixels that is kept
        self.notes: dict[str, list[str]] = {}  # file: notes about it, although it is used
        self._of_source: dict[str, list[str]] = {}  # hash of decoded pixels: ids
        self._cuts: dict[str, Cut] = {}  # by the ids of the pictures
        self._prepared: set[str] = set()  # hashes of written pixels
        self._signatures: dict[str, Signature] = {}

    def add(self, name: str, found: Cuts | InputError, mask: str | None = None) -> None:
        """Add what the `cutter` made of the file ``name``; list it if it cannot be used.

        ``mask`` is the file of its attention mask: the mask's cuts go to ``attention/<id>.png``. Raises InputError if
        the mask is damaged.
        """
        if isinstance(found, InputError):
            self.leave_out(name, found)
            return
        if found.notes:
            self.notes[name] = found.notes
        known = self._of_source.get(found.pixels, [])
        earlier = self.images[known[0]]["sources"] if known else []
        masked = bool(known) and "attention" in self.images[known[0]]
        if known and (masked or not _has_mask(found)):
            self.duplicates[name] = earlier[0]
            for identifier in known:
                self.images[identifier]["sources"].append(name)
        elif found.small:
            self.skipped[name] = f"{found.small} (`prepare.enlarge: true` would enlarge it)"
        elif found.mask_fault:
            raise found.mask_fault
        else:  # of files with the same pixels, the first with a mask is kept
            self._of_source[found.pixels] = self._add_cuts(name, found, mask, earlier)
            self.duplicates.update(dict.fromkeys(earlier, name))

    def leave_out(self, name: str, error: InputError) -> None:
        """List a file that cannot be read, or raise ``error`` if the settings say so."""
        if self.settings.unreadable == "stop":
            raise error
        self.skipped[name] = error.fault

    def _add_cuts(self, name: str, found: Cuts, mask: str | None, earlier: list[str]) -> list[str]:
        added = []
        for number, cut in enumerate(found.cuts, start=1):
            identifier = found.pixels[:16] if number == 1 else f"{found.pixels[:16]}-{number}"
            attention = {"attention": mask_name(name, mask or name)} if cut.mask else {}  # the file with the mask
            self._write(identifier, cut, {"sources": [name, *earlier], **cut.entry, **attention, "flipped": False})
            self._signatures[identifier] = Signature.of_text(cut.signature)
            self._cuts[identifier] = cut
            if cut.plain:
                self.notes[name] = [*found.notes, PLAIN]
            added.append(identifier)
        return added

    def _write(self, identifier: str, cut: Cut, entry: dict[str, Any]) -> None:
        copy_file(self.cutter.png(cut.png), self.out / f"{identifier}.png")
        if cut.mask:
            (self.out / MASKS).mkdir(exist_ok=True)
            copy_file(self.cutter.png(cut.mask), self.out / MASKS / f"{identifier}.png")
        self.images[identifier] = entry
        self._prepared.add(cut.pixels)

    def add_copies(self) -> None:
        """Add the copies of all pictures, except those whose pixels are already in the set."""
        for identifier, cut in self._cuts.items():
            self._add_copies(identifier, identifier, cut)

    def _add_copies(self, original: str, identifier: str, cut: Cut) -> None:
        entry = self.images[original]
        about = {key: entry[key] for key in ("sources", "attention") if key in entry} | {"of": original}
        for name, copy in cut.copies.items():
            own = f"{identifier}-{name}"
            if copy.pixels not in self._prepared:
                self._write(own, copy, {**copy.entry, **about, "flipped": name == "flip"})
            self._add_copies(original, own, copy)

    def listing(self) -> dict[str, Any]:
        """The content of ``images.json``: the pictures, what was left out and why, and near duplicates."""
        pairs = near_duplicates(self._signatures, self.settings.near_duplicates)
        listing: dict[str, Any] = {
            "images": self.images,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "near_duplicates": [list(pair) for pair in pairs],
        }
        if self.settings.crop == "faces":
            listing["opencv"] = faces.version()
        if not_at := self._not_at():
            listing["not_at"] = not_at
        return {**listing, "notes": self.notes} if self.notes else listing

    def _not_at(self) -> dict[str, dict[str, list[str]]]:
        """The files of pictures that have no copy at a further resolution: resolution → reason → files."""
        found: dict[str, dict[str, list[str]]] = {}
        for side in self.settings.further_resolutions:
            for identifier, cut in self._cuts.items():
                if f"{identifier}-{side}px" not in self.images:
                    reason = "the same as another" if f"{side}px" in cut.copies else "too small"
                    files = found.setdefault(str(side), {}).setdefault(reason, [])
                    if (file := self.images[identifier]["sources"][0]) not in files:  # one that was split is told once
                        files.append(file)
        return found


def _has_mask(found: Cuts) -> bool:
    return found.mask_fault is not None or any(cut.mask for cut in found.cuts)
