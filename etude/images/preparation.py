"""A folder of any pictures becomes training pictures: named by content, identical ones kept once, the rest listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from etude.core.errors import InputError
from etude.core.pictures import open_whole
from etude.images import faces
from etude.images.crop import Box, Size, bucket_sizes, crop_box, cut, nearest_size, pad, scaled, split_boxes
from etude.images.decode import Picture, read_picture
from etude.images.focus import focal_point
from etude.images.identity import Signature, near_duplicates, pixel_hash, signature
from etude.images.settings import Prepare

OVERSAMPLING = 2  # a JPEG is decoded at no less than this many times the pixels it is used at
MASKS = "attention"  # the folder of masks in `out`
PLAIN = "one colour alone"
EVEN = 127  # the grey of a mask that weighs as much as none
PNG_LEVEL = 1  # of zlib; fixed, since a file's bytes are its identity for DVC


class Preparation:
    """Takes files one by one; ``out`` fills with ``<id>.png``, the attributes with what ``images.json`` tells.

    An id is the first 16 hex digits of the hash of a file's upright, opaque pixels, then ``-2``, ``-3``, … for further
    cuts of a split picture and ``-flip`` for a mirrored copy. So a.png and a.jpg never meet, and a picture keeps its id
    when it is renamed. (A large JPEG is hashed as it is decoded, smaller: its id may change with the resolution.)
    """

    def __init__(self, out: Path, settings: Prepare) -> None:
        faces.refuse_missing(settings.crop)
        self.out, self.settings = out, settings
        self.images: dict[str, dict[str, Any]] = {}
        self.skipped: dict[str, str] = {}  # file: reason
        self.duplicates: dict[str, str] = {}  # file: the file with the same pixels that is kept
        self.notes: dict[str, list[str]] = {}  # file: what is to be known of it, though it is used
        self._of_source: dict[str, list[str]] = {}  # hash of decoded pixels: ids
        self._prepared: set[str] = set()  # hashes of written pixels
        self._signatures: dict[str, Signature] = {}

    def add(self, name: str, path: Path, mask: Path | None = None) -> None:
        """Prepare the file ``path``, known as ``name``; list it when it cannot be used.

        An attention ``mask`` is cut as its picture is, into ``attention/<id>.png``; a damaged one raises InputError.
        """
        enough = partial(pixels_enough, settings=self.settings)
        try:
            picture = read_picture(path, self.settings.colour, enough)
        except InputError as error:
            self.leave_out(name, error)
            return
        if picture.notes:
            self.notes[name] = list(picture.notes)
        pixels = pixel_hash(picture.image)
        known = self._of_source.get(pixels)
        if known:
            self._note_duplicate(name, known)
        else:
            self._of_source[pixels] = self._cut(name, picture, pixels[:16], mask)

    def leave_out(self, name: str, error: InputError) -> None:
        """List what cannot be read, or raise ``error`` where the settings say so."""
        if self.settings.unreadable == "stop":
            raise error
        self.skipped[name] = error.fault

    def _note_duplicate(self, name: str, known: list[str]) -> None:
        self.duplicates[name] = self.images[known[0]]["sources"][0]
        for identifier in known:
            self.images[identifier]["sources"].append(name)

    def _cut(self, name: str, picture: Picture, stem: str, mask: Path | None) -> list[str]:
        target = target_size(picture.size, self.settings)
        enlarged = is_enlarged(picture.size, target, self.settings)
        if enlarged and not self.settings.enlarge:
            small = "{}×{} pixels are too few for {}×{}".format(*picture.size, *target)
            self.skipped[name] = f"{small} (`prepare.enlarge: true` would enlarge it)"
            return []
        found = faces.find_faces(picture.image) if self.settings.crop == "faces" else []
        made = []
        for number, (image, box) in enumerate(pieces(picture, target, self.settings, found), start=1):
            identifier = stem if number == 1 else f"{stem}-{number}"
            entry = {"sources": [name], "source_size": list(picture.size), "crop": box, "enlarged": enlarged}
            if found:
                entry["faces"] = [_in_file(face, picture) for face in found]
            if mask:
                entry["attention"] = mask.name
                self._save_mask(identifier, mask_piece(mask, picture.size, box, target, self.settings))
            self._write(identifier, image, {**entry, "flipped": False})
            made.append(identifier)
            if image.getcolors(1):
                self.notes[name] = [*picture.notes, PLAIN]
        return made

    def _write(self, identifier: str, image: Image.Image, entry: dict[str, Any]) -> None:
        image.save(self.out / f"{identifier}.png", compress_level=PNG_LEVEL)
        self.images[identifier] = {**entry, "size": list(image.size)}
        self._prepared.add(pixel_hash(image))
        if not entry["flipped"]:
            self._signatures[identifier] = signature(image)

    def flip(self) -> None:
        """Add a mirrored copy of every picture, save where the set holds those pixels already."""
        for identifier, entry in list(self.images.items()):
            mirrored = open_whole(self.out / f"{identifier}.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if pixel_hash(mirrored) not in self._prepared:
                self._write(f"{identifier}-flip", mirrored, {**entry, "flipped": True})
                if "attention" in entry:
                    mask = open_whole(self.out / MASKS / f"{identifier}.png")
                    self._save_mask(f"{identifier}-flip", mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    def _save_mask(self, identifier: str, mask: Image.Image) -> None:
        (self.out / MASKS).mkdir(exist_ok=True)
        mask.save(self.out / MASKS / f"{identifier}.png", compress_level=PNG_LEVEL)

    def listing(self) -> dict[str, Any]:
        """What ``images.json`` holds: the pictures, what was left out and why, and what looks alike."""
        pairs = near_duplicates(self._signatures, self.settings.near_duplicates)
        listing: dict[str, Any] = {
            "images": self.images,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "near_duplicates": [list(pair) for pair in pairs],
        }
        if self.settings.crop == "faces":
            listing["opencv"] = faces.version()
        return {**listing, "notes": self.notes} if self.notes else listing


def target_size(size: Size, settings: Prepare) -> Size:
    """The size [w, h] that a picture of this upright size is brought to."""
    if not settings.buckets:
        return settings.resolution, settings.resolution
    return nearest_size(size, bucket_sizes(settings.resolution, settings.buckets))


def is_enlarged(size: Size, target: Size, settings: Prepare) -> bool:
    """Whether a picture has fewer pixels than it is brought to, across or down."""
    scales = target[0] / size[0], target[1] / size[1]
    return (min(scales) if settings.crop == "pad" else max(scales)) > 1


def pixels_enough(size: Size, settings: Prepare) -> Size:
    """How many pixels [w, h] of a picture are worth decoding: OVERSAMPLING times what is kept of the whole."""
    target = target_size(size, settings)
    scales = target[0] / size[0], target[1] / size[1]
    scale = OVERSAMPLING * (min(scales) if settings.crop == "pad" else max(scales))
    if settings.crop == "faces":  # small ones are found in more pixels than a small picture has
        scale = max(scale, min(faces.SIDE / max(size), 1.0))
    return ceil(size[0] * scale), ceil(size[1] * scale)


def pieces(
    picture: Picture, target: Size, settings: Prepare, seen: Sequence[Box] = ()
) -> Iterator[tuple[Image.Image, list[int]]]:
    """The training pictures cut from one file, each with its box in the file's upright pixels.

    ``seen`` are boxes of faces in the pixels of ``picture.image``.
    """
    image = picture.image
    boxes = split_boxes(image.size, target, settings.split, settings.split_overlap) if settings.split else []
    if not boxes and settings.crop == "pad":
        yield pad(image, target, settings.colour), [0, 0, *picture.size]
        return
    if not boxes:
        focus = focal_point(image, target, seen) if settings.crop in ("focus", "faces") else None
        boxes = [crop_box(image.size, target, focus)]
    for box in boxes:
        yield cut(image, box, target), _in_file(box, picture)


def mask_piece(path: Path, size: Size, box: list[int], target: Size, settings: Prepare) -> Image.Image:
    """The part of a mask that belongs to ``box`` of a picture of ``size``, as grey of the target's size."""
    image = read_picture(path, (0, 0, 0)).image
    if settings.crop == "pad" and box == [0, 0, *size]:
        return pad(image.resize(size), target, (EVEN, EVEN, EVEN)).convert("L")
    across, down = image.width / size[0], image.height / size[1]
    return cut(image, scaled(box, across, down), target).convert("L")


def _in_file(box: Box, picture: Picture) -> list[int]:
    across, down = picture.size[0] / picture.image.width, picture.size[1] / picture.image.height
    return [round(value) for value in scaled(box, across, down)]
