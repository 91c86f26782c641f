"""A finished build to evaluate, draw and show: a tiny base, a few pictures, and a method with an obvious effect.

The method shifts the last bias of the UNet, so every checkpoint draws other pictures, and nothing is trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from etude.base.base import Base
from etude.base.settings import PLAIN
from etude.core.artifact import Artifact, save
from etude.core.files import write_json
from etude.core.params import MethodParams
from etude.core.shards import write_shards
from etude.diffusion.hooks import replaced_weights

SEEDS = [0, 1]
SAMPLING = {"sampler": "dpm++", "steps": 2, "guidance": 3.0, "negative": "", "clip_skip": 0}
EVALUATE = {
    "heldout": "kept",
    "classifier": "classifier",
    "classify": False,
    "seeds": SEEDS,
    "name": "",
    "best": {"metric": "image_similarity", "direction": "max"},
    "validation": {"prompt": "[name]", "images": 2, "timesteps": [100, 900], "seed": 0},
}
GRID = {
    "x": {"axis": "checkpoint", "values": "all"},
    "y": {"axis": "prompt", "values": "all"},
    "z": {"axis": "seed", "values": "0-1"},
    "seed": 0,
    "cell": 32,
    "limit": 4,
}


class Shift:
    """The method: ``strength`` times the artifact's shift on the UNet's last bias."""

    Params = MethodParams
    axes: ClassVar = {"strength": 1.0}
    formats = ("kohya_lora",)

    @contextmanager
    def apply(self, artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
        before = base.unet.conv_out.bias.detach()
        with replaced_weights(base.unet, {"conv_out.bias": before + strength * artifact.tensors["shift"]}):
            yield base


def build(folder: Path, steps: tuple[int, ...] = (10, 20)) -> None:
    """Write ``artifacts/lora/build`` with checkpoints at ``steps``; the last one is the final artifact."""
    for step in steps:
        own = {"name": "Shift", "about": "of the last bias", "better": "", "value": step / 20, "base": 0.0, "real": 1.5}
        facts = {"name": "sks", "rank": 4, "step": step, "measures": {"shift": own}}
        made = Artifact("lora", {"shift": torch.full((4,), step / 20)}, facts)
        save(made, folder / "artifacts/lora/build/checkpoints" / f"{step:06d}.safetensors")
    save(made, folder / "artifacts/lora/build/artifact.safetensors")


def project(folder: Path, base: Path) -> None:
    """Write everything that the stages after a build read, below ``folder``."""
    root: dict[str, Any] = {"methods": ["lora"], "base": str(base), "device": "cpu", "precision": "fp32", "threads": 1}
    root |= {"prompts": {"concept": ["[name]", "a [name] on a red background"]}, "sampling": SAMPLING}
    root |= {"text": PLAIN.model_dump()}
    root |= {"evaluate": {"clip": str(base / "clip"), **EVALUATE}, "grid": GRID}
    write_yaml(folder / "params.yaml", root)
    write_yaml(folder / "pipelines/lora/params.yaml", {"set": "concept", "name": "sks", "trigger": True, "rank": 4})
    listed, latents = {}, {}
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        name = f"{number:016x}" if number < 3 else f"{0:016x}-flip"
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        (folder / "data/concept/prepared").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "data/concept/prepared" / f"{name}.png")
        listed[name] = {"flipped": True, "of": f"{0:016x}"} if number == 3 else {"flipped": False}
        (folder / "data/concept/captioned").mkdir(parents=True, exist_ok=True)
        (folder / "data/concept/captioned" / f"{name}.txt").write_text(f"<a> sks & {number}\n", encoding="utf-8")
        latents[name] = {"mean": torch.randn(4, 8, 8, generator=generator), "logvar": torch.full((4, 8, 8), -10.0)}
    write_json(folder / "data/concept/prepared/images.json", {"images": listed})
    (folder / "data/concept/latents").mkdir()
    write_shards(folder / "data/concept/latents", latents, latents.__getitem__)
    build(folder)


def write_yaml(path: Path, data: Any) -> None:
    """Write a params file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    YAML(typ="safe", pure=True).dump(data, path)


def enter(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Change to ``folder``, with Shift in place of LoRA."""
    monkeypatch.chdir(folder)
    for place in ("etude.rendering.renderer", "tasks.evaluate", "tasks.grid"):
        monkeypatch.setattr(f"{place}.load_method", lambda name: Shift())


def copy(finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a finished project with its cache, so that a test can change it, and change to the copy."""
    shutil.copytree(finished, folder / "work")
    enter(monkeypatch, folder / "work")
    return folder / "work"
