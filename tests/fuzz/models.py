"""Whole models as single files and as folders of diffusers, and whether Étude reads them as diffusers does.

They are tiny: of the true architectures, with the fewest layers.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.base.whole import empty_model, expected_shapes, read_model
from etude.core.families import FAMILIES
from etude.core.model_files import common
from etude.formats.kinds import open_any
from tests.etude.base.ldm import to_ldm
from tests.fuzz import programs
from tests.tiny import build_tiny

NAMES = list(FAMILIES)
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@cache
def _home() -> Path:
    folder = tempfile.mkdtemp(prefix="fuzzed-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _folder(family: str) -> Path:
    """A folder of diffusers without what no reader looks at."""
    path = build_tiny(_home() / family, family, shallow=True)
    shutil.rmtree(path / "clip", ignore_errors=True)
    (path / "model_index.json").unlink()
    return path


@cache
def _single(family: str, suffix: str) -> Path:
    path = _home() / f"{family}{suffix}"
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(_folder(family), family).items()}
    if suffix == ".safetensors":
        save_file(tensors, path, {"format": "pt", "modelspec.title": "x"})
    else:
        torch.save({"state_dict": tensors, "global_step": 7}, path)
    return path


@cache
def _expected(family: str) -> dict[str, tuple[int, ...]]:
    record, configs = FAMILIES[family], _folder(family)
    models = {part: empty_model(configs, configs / part, record, part) for part in record.parts}
    return {name: tuple(shape) for name, shape in expected_shapes(models).items()}


def _linked(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, copy_function=os.link))


def single(folder: Path, number: int) -> Path:
    """A single file; the configuration that belongs to it is taken from elsewhere."""
    path = _single(NAMES[number % 3], (".safetensors", ".safetensors", ".ckpt")[number // 3 % 3])
    os.link(path, folder / path.name)
    return folder / path.name


def check_single(path: Path) -> None:
    """Étude's tensors are those that diffusers converts to."""
    family = path.stem
    _linked(_folder(family), path.with_suffix(".config"))
    _, opened = open_any(path, whole=partial(read_model, expected=_expected(family)))
    assert opened.method == "model_merge", f"read as {opened.method}"
    with programs.asked():
        own = programs.single_parts(path, _folder(family), family)
    for part, tensors in own.items():
        for name, tensor in common(part, tensors).items():
            if name in opened.tensors:
                assert _is_same(opened.tensors[name], tensor), f"another {name} than diffusers'"


def folder(folder: Path, number: int) -> Path:
    """A folder of diffusers."""
    return _linked(_folder(NAMES[number % 3]), folder / NAMES[number % 3])


def check_folder(path: Path) -> None:
    """Each changed part computes what diffusers' own does, and the schedule of noise is diffusers'."""
    base = load_base(path)
    encode_prompts(base, ["a red cat, 東京"])
    original = _folder(path.name)
    texts = dict(zip(("text_encoder", "text_encoder_2"), base.text_encoders, strict=False))
    for part, model in {"unet": base.unet, "vae": base.vae, **texts}.items():
        if _is_changed(path / part, original / part):
            with programs.asked():
                own = programs.draw_of(part, programs.part_of_diffusers(path, part))
            results = programs.draw_of(part, model)
            assert len(own) == len(results), f"{part} computes another number of results"
            for one, other in zip(results, own, strict=True):
                assert programs.is_near(one, other), f"{part} computes something else than diffusers'"
    if _is_changed(path / "scheduler", original / "scheduler"):
        with programs.asked():
            alphas, prediction = programs.schedule_of_diffusers(path)
        assert programs.is_near(base.alphas_cumprod, alphas), "another schedule of noise"
        assert base.prediction == prediction, "another prediction"


def _is_changed(folder: Path, original: Path) -> bool:
    return any(
        not (original / file.name).exists() or not file.samefile(original / file.name) for file in folder.iterdir()
    )


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.double(), other.double())
