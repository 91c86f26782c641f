"""One picture file becomes training pictures. What was made of the same bytes before is in the store ``.cache/``."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image, features

from etude.core.code import code_digests, versions
from etude.core.errors import InputError
from etude.core.files import atomic_path
from etude.core.store import Store, key, load, remembered, save
from etude.images import faces
from etude.images.crop import Box, Size, bucket_sizes, crop_box, cut, nearest_size, pad, scaled, split_boxes
from etude.images.decode import Picture, read_picture
from etude.images.focus import focal_point
from etude.images.identity import pixel_hash, signature
from etude.images.settings import Prepare

OVERSAMPLING = 2  # a JPEG is decoded at no less than this many times the pixels it is used at
PLAIN = "one colour alone"
EVEN = 127  # the grey of a mask that weighs as much as none
PNG_LEVEL = 1  # of zlib; fixed, since a file's bytes are its identity for DVC
CODE = ("etude/images", "etude/core")  # the code that makes an entry
PACKAGES = ("numpy", "pillow", "pillow-heif", "pillow-jxl-plugin")  # Pillow's own libraries count too
ABOUT_SETS = {"near_duplicates", "unreadable"}  # settings that change nothing of a single picture
FLIPPED = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class Cut:
    """A training picture, as PNGs in the store."""

    entry: dict[str, Any]  # for ``images.json``
    png: str  # name in the store: the SHA-256 of the file
    pixels: str  # hash of the pixels
    signature: str
    plain: bool  # one colour alone
    mask: str | None = None
    mirrored: Cut | None = None


@dataclass(frozen=True)
class Cuts:
    """What became of a file. Without ``cuts``, either it is too ``small`` or its mask has a fault."""

    pixels: str  # hash of the decoded pixels
    size: Size  # of the file, upright
    notes: list[str]
    cuts: list[Cut] = field(default_factory=list)
    small: str = ""
    mask_fault: InputError | None = None


class Cutter:
    """Cuts one file after the other by the same settings, in this process or, pickled, in others.

    An entry of the store has everything in its key that it depends on: the bytes of the picture and of its mask,
    settings, code and libraries. A damaged one is made again.
    """

    def __init__(self, settings: Prepare) -> None:
        faces.refuse_missing(settings.crop)
        self.settings = settings
        self._context = key(settings.model_dump(exclude=ABOUT_SETS), code_digests(*CODE), _libraries(settings))
        self._entries, self._pictures = Store("cuts"), Store("prepared")

    def __call__(self, files: tuple[Path, Path | None]) -> Cuts | InputError:
        """The cuts of a picture with the attention mask beside it; or why the file is no picture."""
        try:
            before = _digests(files)
        except OSError:  # it cannot be read, which the reader of pictures explains
            return self._made(*files)
        place = self._entries.path(key(before, self._context), ".entry")
        entry = load(place)
        if entry is not None and all(map(self._is_whole, _pngs(kept := _cuts(entry)))):
            return kept
        made = self._made(*files)
        # Faults depend on names too. And a file that was changed meanwhile must not be known by its former bytes.
        if isinstance(made, Cuts) and not made.mask_fault and _digests(files) == before:
            save(place, asdict(made))
        return made

    def png(self, name: str) -> Path:
        """The PNG in the store that a cut calls ``name``."""
        return self._pictures.path(name, ".png")

    def _is_whole(self, name: str) -> bool:
        try:
            return hashlib.sha256(self.png(name).read_bytes()).hexdigest() == name
        except FileNotFoundError:
            return False

    def _made(self, path: Path, mask: Path | None) -> Cuts | InputError:
        enough = partial(pixels_enough, settings=self.settings)
        try:
            picture = read_picture(path, self.settings.colour, enough)
        except InputError as error:
            return error
        cuts = Cuts(pixel_hash(picture.image), picture.size, list(picture.notes))
        target = target_size(picture.size, self.settings)
        if is_enlarged(picture.size, target, self.settings) and not self.settings.enlarge:
            return replace(cuts, small="{}×{} pixels are too few for {}×{}".format(*picture.size, *target))
        try:
            return replace(cuts, cuts=list(self._cut(picture, target, mask)))
        except InputError as error:
            return replace(cuts, mask_fault=error)

    def _cut(self, picture: Picture, target: Size, mask: Path | None) -> Iterator[Cut]:
        found = faces.find_faces(picture.image) if self.settings.crop == "faces" else []
        enlarged = is_enlarged(picture.size, target, self.settings)
        whole = read_picture(mask, (0, 0, 0)).image if mask else picture.alpha if self.settings.alpha_mask else None
        for image, box in pieces(picture, target, self.settings, found):
            entry = {"source_size": list(picture.size), "crop": box, "enlarged": enlarged, "size": list(image.size)}
            if found:
                entry["faces"] = [_in_file(face, picture) for face in found]
            grey = mask_piece(whole, picture.size, box, target, self.settings) if whole else None
            made = self._kept(image, entry, grey)
            if self.settings.flip:
                mirrored = self._kept(image.transpose(FLIPPED), entry, grey and grey.transpose(FLIPPED))
                made = replace(made, mirrored=mirrored)
            yield made

    def _kept(self, image: Image.Image, entry: dict[str, Any], mask: Image.Image | None) -> Cut:
        png, plain = self._save(image), bool(image.getcolors(1))
        return Cut(entry, png, pixel_hash(image), signature(image).text(), plain, self._save(mask) if mask else None)

    def _save(self, image: Image.Image) -> str:
        """The name in the store under which the image is a PNG now."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=PNG_LEVEL)
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()
        if not self._is_whole(name):  # Windows cannot replace a file that another worker reads
            with atomic_path(self.png(name), durable=False) as temporary:
                temporary.write_bytes(data)
        return name


def _digests(files: Iterable[Path | None]) -> list[str]:
    return [remembered(file) for file in files if file]


def _libraries(settings: Prepare) -> dict[str, str | None]:
    """The versions of what decodes and computes; for OpenCV, where faces count."""
    found = versions(*PACKAGES)
    for name in features.get_supported():
        found[f"Pillow: {name}"] = features.version(name)
    return found | {"opencv": faces.version()} if settings.crop == "faces" else found


def _cuts(entry: dict[str, Any]) -> Cuts:
    cuts = []
    for cut_ in entry["cuts"]:
        mirrored = cut_["mirrored"] and Cut(**cut_["mirrored"])
        cuts.append(Cut(**{**cut_, "mirrored": mirrored}))
    return Cuts(**{**entry, "size": tuple(entry["size"]), "cuts": cuts})


def _pngs(cuts: Cuts) -> Iterator[str]:
    for one in cuts.cuts:
        for made in (one, one.mirrored):
            if made:
                yield from filter(None, (made.png, made.mask))


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


def mask_piece(image: Image.Image, size: Size, box: list[int], target: Size, settings: Prepare) -> Image.Image:
    """The part of a mask that belongs to ``box`` of a picture of ``size``, as grey of the target's size."""
    if settings.crop == "pad" and box == [0, 0, *size]:
        return pad(image.convert("RGB").resize(size), target, (EVEN, EVEN, EVEN)).convert("L")
    across, down = image.width / size[0], image.height / size[1]
    return cut(image, scaled(box, across, down), target).convert("L")


def _in_file(box: Box, picture: Picture) -> list[int]:
    across, down = picture.size[0] / picture.image.width, picture.size[1] / picture.image.height
    return [round(value) for value in scaled(box, across, down)]
