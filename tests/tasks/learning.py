"""A project in which a method can be built: the code as it is, a tiny base, three encoded pictures."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from ruamel.yaml import YAML

from etude.base.settings import PLAIN
from etude.core.files import write_json
from etude.core.method import load_method
from etude.core.params import read_yaml
from etude.core.shards import CAPTIONS as CAPTIONS_FILE
from etude.core.shards import text_entry, write_shards
from etude.training.settings import Compute
from etude.training.start import Starts
from tests.pipelines.learning import params_of
from tests.shipped import ROOT

COMPUTE = dict(Compute.added_keys)  # as shipped
CAPTIONS = {"a": "noto otter", "b": "flat otter", "c": "otter"}


def make_project(folder: Path, base: Path, method: str, **changes: Any) -> Path:
    """params.yaml, data/concept, models/tiny, and the method's folder with a short run."""
    for room in ("etude", "tasks"):
        (folder / room).symlink_to(ROOT / room)
    (folder / "models").mkdir()
    (folder / "models/tiny").symlink_to(base)
    if issubclass(load_method(method).Params, Starts):
        (folder / "artifacts" / method / "sources/start").mkdir(parents=True)
    if "class_images" in load_method(method).Params.model_fields:
        (folder / "artifacts" / method / "class_images").mkdir(parents=True, exist_ok=True)
    own = folder / "pipelines" / method
    own.mkdir(parents=True)
    shutil.copy(ROOT / "pipelines" / method / "dvc.yaml", own)
    for code in ("__init__.py", "method"):
        (own / code).symlink_to(ROOT / "pipelines" / method / code)
    write_yaml(own / "params.yaml", params_of(method, **changes).model_dump(mode="json"))
    stage_params = {"base": "models/tiny", "device": "cpu", "precision": "fp32", "processes": 1, "seed": 3}
    stage_params |= {"threads": 1, "trackers": [], "keep_states": 0, "compute": COMPUTE, "text": PLAIN.model_dump()}
    write_yaml(folder / "params.yaml", stage_params | {"methods": [method]})
    write_data(folder / "data/concept")
    return folder


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(data, file)


def change(path: Path, **values: Any) -> None:
    """Other values in a params file."""
    write_yaml(path, read_yaml(path) | values)


def write_data(folder: Path) -> None:
    """What *prepare* and *encode* leave: three pictures, their moments, and states of their captions and of no text."""
    generator = torch.Generator().manual_seed(5)
    for room in ("latents", "texts", "prepared"):
        (folder / room).mkdir(parents=True)
    moments = {"mean": partial(torch.randn, generator=generator), "logvar": lambda *size: torch.full(size, -6.0)}
    write_shards(folder / "latents", CAPTIONS, lambda _: {key: make(4, 8, 8) for key, make in moments.items()})
    for name, colour in zip(CAPTIONS, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (64, 64), colour).save(folder / "prepared" / f"{name}.png")
    write_json(folder / "prepared/images.json", {"images": {name: {"flipped": False} for name in CAPTIONS}})
    entries = [text_entry(text) for text in (*CAPTIONS.values(), "")]
    write_shards(folder / "texts", entries, lambda _: {"hidden": torch.randn(77, 32, generator=generator)})
    write_json(folder / "texts" / CAPTIONS_FILE, CAPTIONS)
