"""Masks by a network: files beside the pictures of an image set, which are read like masks that a person has drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from commands.tracking import track
from etude.captions import onnx
from etude.core.errors import ArgumentError, BaseError, InputError
from etude.core.files import atomic_path, read_json
from etude.core.model_folders import read_config
from etude.core.params import image_folder
from etude.core.pictures import DAMAGE
from etude.images.decode import read_picture
from etude.images.folder import MASKS, list_pictures
from tasks.shell.console import first_of, progress, say, warn

Array = NDArray[np.float32]
END = MASKS[1]  # end of the stem of a mask's file
MADE = "etude masks"  # in the PNG text of masks that this command made, before the hash of their pixels
FETCH = "fetch it whole: `etude base --from CIDAS/clipseg-rd64-refined --revision COMMIT --to models/clipseg`"
RENAMED = "use the file of rembg, with the file name that rembg gives it"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of red, green and blue


def make(name: str, model: Path, text: str, threshold: float, grow: float, replace: bool) -> None:
    """Write ``<picture>-masklabel.png`` beside each picture of the set ``name`` that has no mask, and track the set.

    Raises an EtudeError, before anything is written, if the model cannot make masks or ``text`` does not fit it.
    """
    folder = image_folder(name)
    pictures = list_pictures(folder)
    wanted = {file: mask for file, mask in pictures.items() if mask is None or (replace and _is_made(folder / mask))}
    if not wanted:
        _track(folder)  # an earlier run may have been stopped before it did this
        say(f"{name}: each of the {len(pictures)} pictures has a mask; --replace makes those again that were made here")
        return
    _refuse_one_for_two(wanted)
    find = open_finder(model.expanduser(), text)
    left_out = {}
    for file in progress(list(wanted), f"{name}: masks"):
        try:
            picture = read_picture(folder / file, (255, 255, 255)).image
        except InputError as error:
            left_out[file] = error.fault
            continue
        mask = drawn(find(picture), picture.size, threshold, grow)
        target = folder / (wanted[file] or f"{Path(file).with_suffix('')}{END}.png")
        with atomic_path(target) as temporary:
            mask.save(temporary, "PNG", pnginfo=_mark(mask))
    say(f"{name}: {len(wanted) - len(left_out)} masks made, {len(pictures) - len(wanted)} were there")
    if left_out:
        faults = [f"{file} ({fault})" for file, fault in left_out.items()]
        warn(f"{name}: {len(left_out)} files cannot be read, and get no mask: {first_of(faults)}")
    _track(folder)
    say(f"look at them, then: dvc repro set_page@{name}")
    say("methods use them if their `unmasked_weight` is below 1; dream_artist always does")


def _refuse_one_for_two(files: Iterable[str]) -> None:
    """Raise InputError where two pictures would have the same mask: fox.png and fox.jpg."""
    first: dict[str, str] = {}
    for file in files:
        other = first.setdefault(str(Path(file).with_suffix("")).casefold(), file)  # as some systems compare names
        if other != file:
            raise InputError(file, f"would have the same mask as {other}", "rename one of them")


def drawn(values: Array, size: tuple[int, int], threshold: float, grow: float) -> Image.Image:
    """The mask of ``size`` from a network's values [h, w], 0 to 1: greys, or white from ``threshold`` on."""
    if threshold:
        values = (values >= threshold).astype(np.float32)
    mask = Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
    for _ in range(round(grow * min(mask.size))):  # the same result as one filter of that size, in less time
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return mask.resize(size, Image.Resampling.BILINEAR)


def _track(folder: Path) -> None:
    if folder.with_name(f"{folder.name}.dvc").exists():
        track([folder], "correct that, then `dvc add` it")


def _is_made(path: Path) -> bool:
    """Whether this command made a mask, and nobody has changed it since."""
    try:
        with Image.open(path) as mask:
            software = str(mask.info.get("Software", ""))
            return software.startswith(MADE) and software == _signed(mask)
    except DAMAGE:
        return False


def _signed(mask: Image.Image) -> str:
    return f"{MADE} {hashlib.sha256(mask.tobytes()).hexdigest()}"


def _mark(mask: Image.Image) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", _signed(mask))
    return info


def open_finder(model: Path, text: str) -> Callable[[Image.Image], Array]:
    """The function from an RGB image to values from 0 to 1 [h, w]: how much each place belongs to the mask."""
    if model.suffix == ".onnx":
        if text:
            raise ArgumentError(
                "--text", "is for CLIPSeg only; this network finds what is in front, without a text", "leave --text out"
            )
        return Foreground(model)
    if not is_clipseg(model):
        fault = "is neither the folder of a CLIPSeg nor a .onnx file of rembg"
        raise BaseError(model, fault, FETCH)
    if not text:
        raise ArgumentError(
            "--text", "is missing: CLIPSeg finds what a text names", "add --text with what to find, such as --text dog"
        )
    return Named(model, text)


def is_clipseg(model: Path) -> bool:
    """Whether a folder holds a CLIPSeg, by its config.json; raises BaseError if that is damaged."""
    config = model / "config.json"
    return config.is_file() and read_config(config).get("model_type") == "clipseg"


class Named:
    """CLIPSeg (Lüddecke and Ecker, 2022, arXiv:2112.10003): finds what a text names, as in transformers' example."""

    def __init__(self, model: Path, text: str) -> None:
        import torch
        from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

        from etude.base.damage import DAMAGED, reason
        from etude.base.quiet import quietly

        load = CLIPSegForImageSegmentation.from_pretrained
        try:
            self._seen = read_json(model / "preprocessor_config.json")
            tokenizer = CLIPTokenizer.from_pretrained(model, local_files_only=True)
            network, info = quietly(load, model, local_files_only=True, output_loading_info=True)
        except (InputError, *DAMAGED) as error:  # type: ignore[misc]  # a tuple of exceptions
            why = f"{Path(error.place).name}: {error.fault}" if isinstance(error, InputError) else reason(error)
            raise BaseError(model, f"cannot be opened as CLIPSeg ({why})", FETCH) from error
        if missing := info["missing_keys"]:
            raise BaseError(model, f"lacks {len(missing)} tensors, such as {min(missing)}", FETCH)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self._device).eval().requires_grad_(False)
        self._tokens = tokenizer([text], return_tensors="pt").to(self._device)

    def __call__(self, image: Image.Image) -> Array:
        """The values of an image."""
        import torch

        size = self._seen["size"]
        side = (size, size) if isinstance(size, int) else (size["width"], size["height"])
        small = image.resize(side, Image.Resampling.BILINEAR)
        pixels = normalised(small, self._seen["image_mean"], self._seen["image_std"], 255)
        values = self._network(**self._tokens, pixel_values=torch.from_numpy(pixels).to(self._device)).logits
        return np.asarray(values.sigmoid().float().cpu().reshape(values.shape[-2:]))


@dataclass(frozen=True)
class Sight:
    """The input of a network of rembg: the side of a square in px, and mean and deviation of its colours."""

    side: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


SIGHTS = {
    "u2net": Sight(320, *IMAGENET),
    "silueta": Sight(320, *IMAGENET),
    "isnet-anime": Sight(1024, IMAGENET[0], (1.0, 1.0, 1.0)),
    "isnet": Sight(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
}


class Foreground:
    """U²-Net (Qin et al., 2020, arXiv:2005.09007) or IS-Net, as rembg runs them: finds what is in front."""

    def __init__(self, model: Path) -> None:
        if not onnx.is_installed():
            raise InputError(model, "needs onnxruntime", onnx.INSTALL)
        sight = next((sight for begin, sight in SIGHTS.items() if model.stem.startswith(begin)), None)
        if sight is None or model.stem.startswith("u2net_cloth"):  # this one separates kinds of clothes
            fault = f"is not supported by its name: it must begin with {', '.join(SIGHTS)}, but not with u2net_cloth"
            raise BaseError(model, fault, RENAMED)
        self._session = onnx.open_network(model, "fetch it again", on_gpu=onnx.can_use_gpu())
        taken = self._session.get_inputs()[0]
        if [size for size in taken.shape[1:] if isinstance(size, int)] not in ([3, sight.side, sight.side], [3], []):
            fault = f"has the input shape {taken.shape}; rembg's {model.stem} has [1, 3, {sight.side}, {sight.side}]"
            raise BaseError(model, fault, RENAMED)
        self._path, self._sight = model, sight
        self._input, self._output = taken.name, self._session.get_outputs()[0].name

    def __call__(self, image: Image.Image) -> Array:
        """The values of an image, spread over the whole range from 0 to 1 as rembg does."""
        sight = self._sight
        small = image.resize((sight.side, sight.side), Image.Resampling.LANCZOS)
        pixels = normalised(small, sight.mean, sight.deviation, max(float(np.asarray(small).max()), 1e-6))
        found = self._session.run([self._output], {self._input: pixels})[0]
        if found.shape[:2] != (1, 1):
            raise BaseError(
                self._path,
                f"has the output shape {found.shape}, not [1, 1, height, width] with one value for each pixel",
                RENAMED,
            )
        values: Array = found[0, 0]
        least, most = float(values.min()), float(values.max())
        return (values - least) / max(most - least, 1e-6)


def normalised(image: Image.Image, mean: Any, deviation: Any, brightest: float) -> Array:
    """The pixels [1, 3, h, w] of an RGB image; the value ``brightest`` becomes 1 before mean and deviation."""
    pixels = np.asarray(image, np.float32) / brightest
    return ((pixels - np.float32(mean)) / np.float32(deviation)).transpose(2, 0, 1)[None].astype(np.float32)
