"""One picture file becomes training pictures. Earlier results for the same bytes are in the store ``.cache/``."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance, features

from etude.core.code import code_digests, versions
from etude.core.errors import InputError
from etude.core.files import atomic_path, sha256_file
from etude.core.prepared import EVEN
from etude.core.store import Store, key, load, remembered, save
from etude.images import faces
from etude.images.crop import (
    Box,
    Size,
    bucket_sizes,
    crop_box,
    cut,
    nearest_size,
    pad,
    scaled,
    smaller_box,
    split_boxes,
)
from etude.images.decode import Picture, read_picture
from etude.images.focus import focal_point
from etude.images.identity import pixel_hash, signature
from etude.images.settings import Copies, Prepare

OVERSAMPLING = 2  # a JPEG is decoded at no less than this many times the size at which it is used
PLAIN = "one colour alone"
PNG_LEVEL = 1  # of zlib; fixed, because DVC identifies a file by its bytes
CODE = ("etude/images", "etude/core")  # the code that makes an entry
PACKAGES = ("numpy", "pillow", "pillow-heif", "pillow-jxl-plugin")  # Pillow's own libraries count too
ABOUT_SETS = {"near_duplicates", "unreadable"}  # settings that have no effect on a single picture
FLIPPED = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class Cut:
    """A training picture, as PNGs in the store."""

    entry: dict[str, Any]  # for ``images.json``
    png: str  # name in the store: the SHA-256 of the file
    pixels: str  # hash of the pixels
    signature: str
    plain: bool  # the picture has only one colour
    mask: str | None = None
    copies: dict[str, Cut] = field(default_factory=dict)  # by the suffix of the id


@dataclass(frozen=True)
class Sheet:
    """A picture and the part of it, ``box``, that becomes training pictures."""

    picture: Picture
    mask: Image.Image | None
    about: dict[str, Any]  # what all their entries have in common
    box: Box  # in the pixels of ``picture.image``
    padded: bool  # the whole picture is shown, on a background
    alone: bool  # it is the only part of the picture that is used

    def cut(self, part: Box, target: Size, background: tuple[int, int, int]) -> Image.Image:
        """The part at the size ``target``."""
        image = self.picture.image
        return pad(image, target, background) if self.padded else cut(image, part, target)

    def reshaped(self, target: Size) -> Box:
        """The box for another shape: around the same middle, or inside its own part if the picture was split."""
        if self.padded:
            return self.box
        left, top, right, bottom = self.box
        if self.alone:
            return crop_box(self.picture.image.size, target, ((left + right) / 2, (top + bottom) / 2))
        across, down, end, low = crop_box((right - left, bottom - top), target)
        return left + across, top + down, min(left + end, right), min(top + low, bottom)


@dataclass(frozen=True)
class Cuts:
    """The cuts of a file. Without ``cuts``, either it is too ``small`` or its mask has a fault."""

    pixels: str  # hash of the decoded pixels
    size: Size  # of the file, upright
    notes: list[str]
    cuts: list[Cut] = field(default_factory=list)
    small: str = ""
    mask_fault: InputError | None = None


class Cutter:
    """Cuts one file after the other with the same settings, in this process or, pickled, in others.

    The key of an entry in the store contains everything that it depends on: the bytes of the picture and of its mask,
    settings, code and libraries. A damaged entry is made again.
    """

    def __init__(self, settings: Prepare) -> None:
        faces.refuse_missing(settings.crop)
        self.settings = settings
        self._context = key(settings.model_dump(exclude=ABOUT_SETS), code_digests(*CODE), _libraries(settings))
        self._entries, self._pictures = Store("cuts"), Store("prepared")

    def __call__(self, files: tuple[Path, Path | None]) -> Cuts | InputError:
        """The cuts of a picture with the attention mask beside it; or the reason why the file is no picture."""
        try:
            before = _digests(files)
        except OSError:  # it cannot be read: `read_picture` gives the reason
            return self._made(*files)
        place = self._entries.path(key(before, self._context), ".entry")
        entry = load(place)
        if entry is not None and all(map(self._is_whole, _pngs(kept := _cuts(entry)))):
            return kept
        made = self._made(*files)
        # Faults also depend on names, so they are not saved; nor is the result of a file that was changed meanwhile.
        if isinstance(made, Cuts) and not made.mask_fault and _digests(files) == before:
            save(place, asdict(made))
        return made

    def png(self, name: str) -> Path:
        """The PNG ``name`` of a cut, in the store."""
        return self._pictures.path(name, ".png")

    def _is_whole(self, name: str) -> bool:
        try:
            return sha256_file(self.png(name)) == name
        except FileNotFoundError:
            return False

    def _made(self, path: Path, mask: Path | None) -> Cuts | InputError:
        enough = partial(pixels_enough, settings=self.settings.largest)
        try:
            picture = read_picture(path, self.settings.colour, enough)
        except InputError as error:
            return error
        cuts = Cuts(pixel_hash(picture.image), picture.size, list(picture.notes))
        target = target_size(picture.size, self.settings)
        boxes = split_boxes(picture.size, target, self.settings.split, self.settings.split_overlap)
        part = _size([round(value) for value in boxes[0]]) if boxes else picture.size
        if is_enlarged(part, target, self.settings) and not self.settings.enlarge:
            return replace(cuts, small="{}×{} pixels are too few for {}×{}".format(*picture.size, *target))
        try:
            return replace(cuts, cuts=list(self._cut(picture, cuts.pixels, target, mask)))
        except InputError as error:
            return replace(cuts, mask_fault=error)

    def _cut(self, picture: Picture, pixels: str, target: Size, mask: Path | None) -> Iterator[Cut]:
        found = faces.find_faces(picture.image) if self.settings.crop == "faces" else []
        whole = read_picture(mask, (0, 0, 0)).image if mask else picture.alpha if self.settings.alpha_mask else None
        about: dict[str, Any] = {"source_size": list(picture.size)}
        if found:
            about["faces"] = [_in_file(face, picture) for face in found]
        boxes = boxes_of(picture.image, target, self.settings, found)
        for number, box in enumerate(boxes):
            part = box or (0.0, 0.0, *picture.image.size)
            sheet = Sheet(picture, whole, about, part, padded=box is None, alone=len(boxes) == 1)
            made = self._piece(sheet, part, target)
            for name, image, other in self._variants(sheet, target, f"{pixels} {number}"):
                made.copies[name] = self._piece(sheet, other, image.size, image)
            yield made

    def _variants(self, sheet: Sheet, target: Size, seed: str) -> Iterator[tuple[str, Image.Image, Box]]:
        """The suffix of the id, the picture, and the box of each copy: first the jittered ones, then other sizes."""
        settings, background, size = self.settings, self.settings.colour, sheet.picture.size
        kept = _size(_in_file(sheet.box, sheet.picture))
        room = 1.0 if settings.enlarge else 1 - max(target[0] / kept[0], target[1] / kept[1])
        for copy in range(1, settings.copies.count + 1):
            draw = random.Random(f"{seed} {copy}")  # independent of other pictures
            share = 0.0 if sheet.padded else max(min(settings.copies.crop, room), 0.0)
            part = smaller_box(sheet.box, share, draw)
            yield f"copy{copy}", recoloured(sheet.cut(part, target, background), settings.copies, draw), part
        for side in settings.further_resolutions:
            other = target_size(size, settings.at(side))
            part = sheet.reshaped(other)
            if not is_enlarged(_size(_in_file(part, sheet.picture)), other, settings):
                yield f"{side}px", sheet.cut(part, other, background), part

    def _piece(self, sheet: Sheet, part: Box, target: Size, image: Image.Image | None = None) -> Cut:
        image = image or sheet.cut(part, target, self.settings.colour)
        box = _in_file(part, sheet.picture)
        enlarged = is_enlarged(_size(box), target, self.settings)
        entry = {**sheet.about, "crop": box, "enlarged": enlarged, "size": list(image.size)}
        grey = mask_piece(sheet.mask, sheet.picture.size, box, target, self.settings) if sheet.mask else None
        made = self._kept(image, entry, grey)
        if self.settings.flip:
            made.copies["flip"] = self._kept(image.transpose(FLIPPED), entry, grey and grey.transpose(FLIPPED))
        return made

    def _kept(self, image: Image.Image, entry: dict[str, Any], mask: Image.Image | None) -> Cut:
        png, plain = self._save(image), bool(image.getcolors(1))
        return Cut(entry, png, pixel_hash(image), signature(image).text(), plain, self._save(mask) if mask else None)

    def _save(self, image: Image.Image) -> str:
        """Save the image as a PNG in the store; returns its name there."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=PNG_LEVEL)
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()
        if not self._is_whole(name):  # on Windows, a file that another worker reads cannot be replaced
            with atomic_path(self.png(name), durable=False) as temporary:
                temporary.write_bytes(data)
        return name


def _digests(files: Iterable[Path | None]) -> list[str]:
    return [remembered(file) for file in files if file]


def _libraries(settings: Prepare) -> dict[str, str | None]:
    """The versions of the libraries that decode and compute; that of OpenCV only if faces are searched."""
    found = versions(*PACKAGES)
    for name in features.get_supported():
        found[f"Pillow: {name}"] = features.version(name)
    return found | {"opencv": faces.version()} if settings.crop == "faces" else found


def _cuts(entry: dict[str, Any]) -> Cuts:
    return Cuts(**{**entry, "size": tuple(entry["size"]), "cuts": list(map(_cut_of, entry["cuts"]))})


def _cut_of(entry: dict[str, Any]) -> Cut:
    return Cut(**{**entry, "copies": {name: _cut_of(copy) for name, copy in entry["copies"].items()}})


def _pngs(cuts: Cuts) -> Iterator[str]:
    found = list(cuts.cuts)
    while found:
        made = found.pop()
        yield from filter(None, (made.png, made.mask))
        found += made.copies.values()


def target_size(size: Size, settings: Prepare) -> Size:
    """The size [w, h] of the training picture that is made from a picture of this upright size."""
    if not settings.buckets:
        return settings.resolution, settings.resolution
    return nearest_size(size, bucket_sizes(settings.resolution, settings.buckets))


def is_enlarged(size: Size, target: Size, settings: Prepare) -> bool:
    """Whether a picture has fewer pixels than the target, across or down."""
    scales = target[0] / size[0], target[1] / size[1]
    return (min(scales) if settings.crop == "pad" else max(scales)) > 1


def pixels_enough(size: Size, settings: Prepare) -> Size:
    """The smallest size [w, h] at which a picture is decoded: OVERSAMPLING times the size at which it is used."""
    target = target_size(size, settings)
    scales = target[0] / size[0], target[1] / size[1]
    scale = OVERSAMPLING * (min(scales) if settings.crop == "pad" else max(scales))
    if settings.crop == "faces":  # to find small faces, more pixels are needed than for a small training picture
        scale = max(scale, min(faces.SIDE / max(size), 1.0))
    return ceil(size[0] * scale), ceil(size[1] * scale)


def boxes_of(image: Image.Image, target: Size, settings: Prepare, seen: Sequence[Box] = ()) -> Sequence[Box | None]:
    """The boxes of the training pictures that are cut from an image; None: the whole image, padded.

    ``seen`` are the boxes of faces in the image.
    """
    boxes = split_boxes(image.size, target, settings.split, settings.split_overlap) if settings.split else []
    if boxes:
        return boxes
    if settings.crop == "pad":
        return [None]
    focus = focal_point(image, target, seen) if settings.crop in ("focus", "faces") else None
    return [crop_box(image.size, target, focus)]


def mask_piece(image: Image.Image, size: Size, box: list[int], target: Size, settings: Prepare) -> Image.Image:
    """The part of a mask that belongs to ``box`` of a picture of ``size``, as grey of the target's size."""
    if settings.crop == "pad" and box == [0, 0, *size]:
        return pad(image.convert("RGB").resize(size), target, (EVEN, EVEN, EVEN)).convert("L")
    across, down = image.width / size[0], image.height / size[1]
    return cut(image, scaled(box, across, down), target).convert("L")


def recoloured(image: Image.Image, copies: Copies, draw: random.Random) -> Image.Image:
    """The image with another brightness, contrast and saturation, each changed by at most its share in ``copies``."""
    for change, share in (
        (ImageEnhance.Brightness, copies.brightness),
        (ImageEnhance.Contrast, copies.contrast),
        (ImageEnhance.Color, copies.saturation),
    ):
        factor = 1 + draw.uniform(-share, share)
        image = change(image).enhance(factor) if share else image
    return image


def _size(box: Sequence[int]) -> Size:
    return box[2] - box[0], box[3] - box[1]


def _in_file(box: Box, picture: Picture) -> list[int]:
    """The box in whole pixels of the file, at least one across and one down."""
    across, down = picture.size[0] / picture.image.width, picture.size[1] / picture.image.height
    left, top, right, bottom = (round(value) for value in scaled(box, across, down))
    left, top = min(left, picture.size[0] - 1), min(top, picture.size[1] - 1)
    return [left, top, max(right, left + 1), max(bottom, top + 1)]
