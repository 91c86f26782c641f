"""Encode an image set for training: its pictures to ``data/<set>/latents/``, its captions to ``data/<set>/texts/``.

Every picture and every text is encoded in float32 with batch size 1, so that the result does not depend on others. It
is cached in ``.cache/``; the key contains everything that it depends on: picture or text, weights, code, libraries,
device and threads. The outs are shards (`etude/core/shards.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.base.settings import Text
from etude.core.beside.repeats import repeated_folders, repeats_of
from etude.core.code import code_digests, versions
from etude.core.errors import BaseError, InputError
from etude.core.families import FAMILIES
from etude.core.files import atomic_path, read_json, sha256_file, write_json
from etude.core.params import Schema, pick
from etude.core.prepared import is_copy
from etude.core.shards import CAPTIONS, REPEATS, SIZES, text_entry, write_shards
from etude.core.store import Store, key
from etude.core.tensors import read_metadata, read_tensors, write_tensors
from tasks.shell import publish, run
from tasks.shell.console import first_of, progress, say, warn

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from etude.core.params import Part

    Entry = tuple[dict[str, Tensor], dict[str, str]]  # tensors and metadata
    Encoder = Callable[..., Entry]

__all__ = ["StageParams", "encode"]
CODE = ("etude/base", "etude/core", "tasks/encode.py")  # the code that makes an entry
LIBRARIES = {"vae": ("torch", "diffusers"), "text": ("torch", "transformers", "tokenizers")}
CUT = "cut"  # metadata of a text's entry: the end of the text, if it was cut off because it is too long


class PictureParams(Schema):
    """The parts of params.yaml on which encoded pictures depend."""

    base: str
    device: str
    threads: int


class StageParams(PictureParams):
    """The parts of params.yaml that this stage depends on."""

    text: Text


class Entries:
    """One kind of entry in the store. An entry that is missing or damaged is made again."""

    def __init__(self, part: Part, stage_params: PictureParams) -> None:
        from etude.base.digest import part_digest
        from etude.base.loading import choose_device

        self._base = stage_params.base
        code = code_digests(*CODE)
        libraries = versions(*LIBRARIES[part])
        device = choose_device(stage_params.device).type
        how: list[Any] = [device, stage_params.threads]
        how += [stage_params.text.model_dump()] if part == "text" and isinstance(stage_params, StageParams) else []
        self._context = key(part_digest(stage_params.base, part), code, libraries, how)
        self._store = Store("latents" if part == "vae" else "texts")
        self.encoded = self.cached = 0

    def path(self, item: str, encoder: Callable[[], Encoder], *source: Any) -> Path:
        """The file with the result of ``encoder()(*source)``; the encoder is not loaded for a cached entry.

        ``item`` is the name of the source in an error.
        """
        return self._made(item, source, lambda: encoder()(*source))

    def picture(self, item: str, encoder: Callable[[], Encoder], path: Path | str) -> Path:
        """As `path`, for the pixels of a PNG. Its key has the digest of the file, so a cached PNG is not decoded."""
        return self._made(item, sha256_file(path), lambda: encoder()(*read_pixels(path)))

    def _made(self, item: str, source: Any, encode: Callable[[], Entry]) -> Path:
        place = self._store.path(key(source, self._context))
        if is_whole(place):
            self.cached += 1
        else:
            tensors, metadata = encode()
            _refuse_infinite(self._base, item, tensors)
            write_tensors(place, tensors, metadata, durable=False)
            with atomic_path(_note(place), durable=False) as note:
                note.write_bytes(sha256_file(place).encode())
            self.encoded += 1
        return place

    def __str__(self) -> str:
        return f"{self.encoded} encoded, {self.cached} from cache"


def encode(name: str) -> None:
    """Encode the prepared pictures and the captions of the image set NAME with the base's VAE and text encoder."""
    stage_params = pick("params.yaml", StageParams)
    import etude.base.libraries  # noqa: F401  # first, as torch's flags import a part of it, and in more time
    from etude.core.randomness import make_deterministic

    make_deterministic(stage_params.threads)
    latents, copies = encode_pictures(name, stage_params)
    texts = encode_captions(name, stage_params)
    further = f" (their copies: {copies})" if copies.encoded + copies.cached else ""
    say(f"{name}: latents: {latents}{further}; texts: {texts}")


def encode_pictures(name: str, stage_params: StageParams) -> tuple[Entries, Entries]:
    """Fill ``data/<set>/latents``: for each picture "mean" and "logvar" [4, h/8, w/8], unscaled.

    A picture with an attention mask also has "attention" [h/8, w/8], the mask's grey from 0 to 1. How often pictures
    count is in ``repeats.json``. Pictures and the copies made by *prepare* are counted separately.
    """
    entries, copies = Entries("vae", stage_params), Entries("vae", stage_params)
    encoder = cache(lambda: open_vae(stage_params))  # loaded when the first entry is not in the store
    folder = Path("data", name)
    pictures = sorted(path.stem for path in (folder / "prepared").glob("*.png"))
    if not pictures:
        raise InputError(folder / "prepared", "holds no pictures", "run `dvc repro` so that *prepare* fills it")
    images = read_json(folder / "prepared/images.json")["images"]
    places = {}
    for picture in progress(pictures, f"{name}: latents"):
        own, path = copies if is_copy(images[picture]) else entries, f"{folder}/prepared/{picture}.png"
        places[picture] = own.picture(path, encoder, path)
    from etude.base.family import recognise

    masks = {mask.stem: mask for mask in (folder / "prepared" / "attention").glob("*.png")}
    told = FAMILIES[recognise(stage_params.base)].size_ids
    with publish(folder / "latents") as out:
        write_shards(
            out, places, lambda name: _with_mask(places[name], masks.get(name)) | _sizes(images[name], told=told)
        )
        write_repeats(out, {name: images[name]["sources"] for name in places})
    if folders := repeated_folders(source for name in places for source in images[name]["sources"]):
        say(f"{name}: pictures count as often as the names of their folders say: {first_of(folders)}")
    return entries, copies


def write_repeats(out: Path, sources: Mapping[str, Sequence[str]]) -> None:
    """Write ``repeats.json``, unless each picture counts once; ``sources`` are the files of each picture."""
    repeats = {name: repeats_of(files) for name, files in sources.items()}
    if set(repeats.values()) != {1}:
        write_json(out / REPEATS, {name: number for name, number in repeats.items() if number != 1})


def encode_captions(name: str, stage_params: StageParams) -> Entries:
    """Fill ``data/<set>/texts`` from the captions of the set."""
    folder = Path("data", name)
    captions = {name: entry["text"] for name, entry in read_json(folder / "captioned" / "captions.json").items()}
    with publish(folder / "texts") as out:
        return write_texts(name, captions, out, stage_params)


def write_texts(name: str, captions: Mapping[str, str], out: Path, stage_params: StageParams) -> Entries:
    """Write "hidden" [L, d], for SDXL also "pooled", of each caption and of the empty text, and ``captions.json``."""
    entries = Entries("text", stage_params)
    encoder = cache(lambda: open_text_encoder(stage_params))
    places = {}
    for text in progress(sorted({"", *captions.values()}), f"{name}: texts"):
        places[text_entry(text)] = place = entries.path(text, encoder, text)
        _tell_cut(name, text, place)
    write_shards(out, places, lambda entry: read_tensors(places[entry])[0])
    write_json(out / CAPTIONS, dict(captions))
    return entries


def open_vae(stage_params: PictureParams) -> Encoder:
    """The encoder of pictures: ((width, height), RGB bytes row by row) → "mean" and "logvar" [4, h/8, w/8]."""
    import torch

    from etude.base.latents import encode_images
    from etude.base.loading import load_base

    base = load_base(stage_params.base, device=stage_params.device, parts=("vae",))

    def moments(size: tuple[int, int], pixels: bytes) -> Entry:
        width, height = size
        image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(1, height, width, 3)
        mean, logvar = encode_images(base, image)
        return {"mean": mean[0].cpu(), "logvar": logvar[0].cpu()}, {}

    return moments


def open_text_encoder(stage_params: StageParams) -> Encoder:
    """The encoder of texts: text → "hidden" [L, d], for SDXL also "pooled"."""
    import torch

    from etude.base.loading import load_base
    from etude.base.text import encode_tokens, tokenise

    base = load_base(stage_params.base, device=stage_params.device, parts=("text",), reading=stage_params.text)

    def states(text: str) -> Entry:
        tokens = tokenise(base, [text])
        with torch.no_grad():
            conditioning = encode_tokens(base, tokens)
        named = {"hidden": conditioning.hidden, "pooled": conditioning.pooled}
        return {name: tensor[0].cpu() for name, tensor in named.items() if tensor is not None}, {CUT: tokens.cut[0]}

    return states


def _with_mask(entry: Path, mask: Path | None) -> dict[str, Tensor]:
    """The tensors of an entry; if there is a mask, its grey is added."""
    tensors, _ = read_tensors(entry)
    if mask is None:
        return tensors
    from etude.core.pictures import open_prepared

    return {**tensors, "attention": grey_of(open_prepared(mask), *tensors["mean"].shape[-2:])}


def _sizes(entry: Mapping[str, Any], *, told: bool) -> dict[str, Tensor]:
    """The six numbers in px that SDXL reads with a picture, float32 [6]. ``entry`` is its entry in images.json.

    Height and width of the original; top and left of the cut, in the pixels of the training picture; its height and
    width. Empty for other families.
    """
    if not told:
        return {}
    import torch

    (width, height), (left, top, right, _) = entry["source_size"], entry["crop"]
    scale = entry["size"][0] / (right - left)
    left = width - right if entry["flipped"] else left
    sizes = [height, width, round(top * scale), round(left * scale), entry["size"][1], entry["size"][0]]
    return {SIZES: torch.tensor(sizes, dtype=torch.float32)}


def grey_of(mask: Image.Image, height: int, width: int) -> Tensor:
    """The grey [height, width] of a mask, 0 to 1, resized to the latents' size (bicubic)."""
    import numpy as np
    import torch
    from PIL.Image import Resampling

    grey = np.asarray(mask.convert("L").resize((width, height), Resampling.BICUBIC))
    return torch.tensor(grey).float() / 255


def read_pixels(path: Path | str) -> tuple[tuple[int, int], bytes]:
    """Width and height of a prepared picture, and its RGB bytes row by row."""
    from etude.core.pictures import open_prepared

    image = open_prepared(path)
    return image.size, image.convert("RGB").tobytes()


def _refuse_infinite(base: str, item: str, tensors: dict[str, Tensor]) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        fault = f"encodes `{item}` to numbers that are not finite (NaN or infinity)"
        raise BaseError(base, fault, "fetch it again, or set `base` to another one")


def _tell_cut(name: str, text: str, entry: Path) -> None:
    cut = read_metadata(entry).get(CUT)
    if cut:
        warn(f"{name}: a caption is longer than the text encoder reads; left out {cut!r} of {text!r}")


def is_whole(entry: Path) -> bool:
    """Whether an entry exists and its digest is the one in the .sha256 file beside it."""
    try:
        with open(_note(entry), "rb") as note:
            return note.read() == sha256_file(entry).encode()
    except FileNotFoundError:
        return False


def _note(entry: Path) -> str:
    return f"{os.path.splitext(entry)[0]}.sha256"  # a str: a set has many, and each Path takes time


if __name__ == "__main__":
    run(encode)
