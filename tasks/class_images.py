"""Class images, drawn by the base, for methods with prior preservation: ``artifacts/<method>/class_images/``.

The outs are pictures, their moments and the encoded texts, in the format of *encode*. Each picture is cached in
``.cache/``; its key contains everything that it depends on (prompt, seeds of its batch, sampler, weights, code,
libraries, device, threads).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from etude.base.settings import ClassImages, HasClassImages, Sampling
from etude.core.code import code_digests, versions
from etude.core.files import atomic_path, write_json
from etude.core.memory import advising, during
from etude.core.params import pick
from etude.core.shards import CAPTIONS, INDEX, write_shards
from etude.core.store import Store, key
from etude.core.tensors import read_tensors
from tasks import encode
from tasks.shell import publish, run
from tasks.shell.console import progress, say

__all__ = ["StageParams", "class_images"]
CODE = ("etude/base", "etude/core", "etude/diffusion", "tasks/class_images.py")  # the code that draws a picture
LIBRARIES = ("diffusers", "tokenizers", "torch", "transformers")


class StageParams(encode.StageParams):
    """The parts of params.yaml that this stage depends on."""

    precision: str


def class_images(method: str, real: str = "") -> None:
    """Draw the class images of METHOD and encode them; with --real, copy those of an image set instead."""
    folder = Path("artifacts", method, "class_images")
    if real:
        with publish(folder / real) as out:
            for part in ("latents", "texts"):
                shutil.copytree(Path("data", real, part), out / part)
        say(f"{method}: class images: those of the image set {real}")
        return
    own = pick(Path("pipelines", method, "params.yaml"), HasClassImages)
    settings = own.class_images
    _forget_others(folder, settings.real)
    if not own.drawn:  # nothing is loaded
        with publish(folder / "drawn") as out:
            write_json(out / "latents" / INDEX, {})
            write_json(out / "texts" / INDEX, {})
            write_json(out / "texts" / CAPTIONS, {})
        say(f"{method}: no class images are drawn{': `prior_weight` is 0' if settings.count else ''}")
        return
    stage_params = pick("params.yaml", StageParams)
    from etude.core.randomness import make_deterministic

    make_deterministic(stage_params.threads)
    with publish(folder / "drawn") as out:
        drawn, cached = _fill(out, settings, stage_params, method)
    say(f"{method}: class images: {drawn} drawn, {cached} from cache")


def _forget_others(folder: Path, real: list[str]) -> None:
    """Delete the copies of image sets that are no longer in ``real``: the build depends on the whole folder."""
    for former in folder.glob("[!.]*"):  # names that begin with a dot are drafts
        if former.name not in ("drawn", *real):
            shutil.rmtree(former, ignore_errors=True)


def _fill(out: Path, settings: ClassImages, stage_params: StageParams, method: str) -> tuple[int, int]:
    """Write ``pictures/``, ``latents/`` and ``texts/`` to ``out``; returns the numbers of drawn and cached pictures."""
    prompts_and_files: dict[str, tuple[str, Path]] = {}
    drawn, base = 0, cache(lambda: _open(stage_params))
    context = _context(stage_params)
    for prompt, numbers in progress(list(batches(settings)), f"{method}: class images"):
        places, new = _draw(prompt, [settings.seed + n for n in numbers], settings, context, base)
        drawn += new
        prompts_and_files |= {f"{n:05d}": (prompt, place) for n, place in zip(numbers, places, strict=True)}
    entries, encoder = encode.Entries("vae", stage_params), cache(lambda: encode.open_vae(stage_params))
    for part in ("pictures", "latents", "texts"):
        (out / part).mkdir()
    moments = {}
    for name, (prompt, place) in progress(sorted(prompts_and_files.items()), f"{method}: latents"):
        moments[name] = entries.picture(f"{prompt} {name}", encoder, place)
        shutil.copyfile(place, out / "pictures" / f"{name}.png")
    write_shards(out / "latents", moments, lambda name: read_tensors(moments[name])[0])
    encode.write_texts(
        method, {name: prompt for name, (prompt, _) in prompts_and_files.items()}, out / "texts", stage_params
    )
    return drawn, len(prompts_and_files) - drawn


def batches(settings: ClassImages) -> Iterator[tuple[str, range]]:
    """The batches: prompt and numbers of pictures. Prompts alternate between pictures; picture n has seed + n."""
    for first, prompt in enumerate(settings.prompts):
        own = range(first, settings.count, len(settings.prompts))
        for start in range(0, len(own), settings.batch_size):
            yield prompt, own[start : start + settings.batch_size]


def _context(stage_params: StageParams) -> list[Any]:
    """Everything that a drawn picture depends on, except the settings in params.yaml."""
    from etude.base.digest import PARTS, part_digest
    from etude.base.loading import choose_device

    code = code_digests(*CODE)
    weights = [part_digest(stage_params.base, part) for part in PARTS]
    machine = [choose_device(stage_params.device).type, stage_params.precision, stage_params.threads]
    return [weights, code, versions(*LIBRARIES), machine, stage_params.text.model_dump()]


def _open(stage_params: StageParams) -> Any:
    from etude.base.base import DTYPES
    from etude.base.loading import load_base

    precision, reading = DTYPES[stage_params.precision], stage_params.text
    return load_base(stage_params.base, device=stage_params.device, dtype=precision, reading=reading)


def _draw(
    prompt: str, seeds: list[int], settings: ClassImages, context: list[Any], base: Any
) -> tuple[list[Path], int]:
    """The files of one batch's pictures in the store, and how many were drawn now: all or none."""
    from PIL import Image

    from etude.diffusion.sample import generate

    sampling = settings.model_dump(include=set(Sampling.model_fields))
    group = partial(key, context, prompt, seeds, sampling)
    places = [Store("class_images").path(group(seed), ".png") for seed in seeds]
    if all(place.is_file() for place in places):
        return places, 0
    with (
        advising(lambda: "lower `class_images.batch_size`, and run this again: drawn pictures are kept"),
        during(f"drawing {len(seeds)} class images at once"),
    ):
        pictures = generate(base(), [prompt] * len(seeds), seeds=seeds, **sampling)
    for place, pixels in zip(places, pictures, strict=True):
        with atomic_path(place) as temporary:
            Image.fromarray(pixels.numpy()).save(temporary)
    return places, len(places)


if __name__ == "__main__":
    run(class_images)
