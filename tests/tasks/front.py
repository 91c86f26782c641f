"""A small project for the tests of the front: pictures drawn on the spot, and the params that its stages read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etude.captions.settings import BLIP, KOHYA
from etude.core.files import read_json
from etude.core.tensors import read_tensors

PARAMS = """\
base: {base}
device: cpu
threads: 1
text: {{chunks: 1, rule: a1111, emphasis: none}}
sets:
  pets: raw
prepare:
  resolution: 64
  further_resolutions: []
  buckets: 0
  crop: center
  split: 0.0
  split_overlap: 0.2
  flip: false
  copies: {{count: 0, crop: 0.1, brightness: 0.1, contrast: 0.1, saturation: 0.1}}
  enlarge: false
  background: "#ffffff"
  alpha_mask: false
  near_duplicates: 0.05
  unreadable: skip
caption:
  existing: replace
  file_names: true
  captioners:
    clip: {base}/clip
  words:
    file: words.txt
    templates: ["{{}}"]
    top: 1
    styles: []
    backgrounds: []
  tags: {tags}
  sentence: {sentence}
  prefix: ""
  suffix: ""
"""


def make_project(folder: Path, base: Path) -> Path:
    """A folder with params.yaml and words.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    text = PARAMS.format(base=base, tags=json.dumps(KOHYA), sentence=json.dumps(BLIP))
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    (folder / "words.txt").write_text("cat\ndog\nfox\n", encoding="utf-8")
    return folder


def draw(path: Path, seed: int, size: tuple[int, int] = (80, 64)) -> Path:
    """A soft picture, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def change_a_pixel(path: Path) -> None:
    with Image.open(path) as image:
        changed = image.copy()
    red, green, blue = changed.getpixel((40, 40))
    changed.putpixel((40, 40), (red ^ 128, green, blue))
    changed.save(path)


def set_param(old: str, new: str) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    Path("params.yaml").write_text(text.replace(old, new), encoding="utf-8")


def counts(capsys: pytest.CaptureFixture[str]) -> tuple[int, int, int, int]:
    """What `encode` said last: latents encoded and kept, texts encoded and kept."""
    found = re.findall(
        r"latents: (\d+) encoded, (\d+) from cache; texts: (\d+) encoded, (\d+) from", capsys.readouterr().out
    )
    return tuple(int(number) for number in found[-1])  # type: ignore[return-value]


def captions(name: str = "pets") -> dict[str, tuple[str, str]]:
    """Source file → its caption and where that came from; mirrored copies left out."""
    folder = Path("data", name)
    images = read_json(folder / "prepared" / "images.json")["images"]
    entries = read_json(folder / "captioned" / "captions.json")
    return {
        facts["sources"][0]: (entries[identifier]["text"], entries[identifier]["from"])
        for identifier, facts in images.items()
        if not facts["flipped"]
    }


def tensors(path: Path) -> dict[str, Any]:
    return read_tensors(path)[0]
