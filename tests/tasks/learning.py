"""A project in which a method can be built: the code as it is, a tiny base, three encoded pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from ruamel.yaml import YAML

from etude.core.files import write_json
from etude.core.params import read_yaml
from etude.core.tensors import write_tensors
from tests.pipelines.learning import params_of
from tests.shipped import ROOT

CAPTIONS = {"a": "noto otter", "b": "flat otter", "c": "otter"}


def make_project(folder: Path, base: Path, method: str, **changes: Any) -> Path:
    """params.yaml, data/concept, models/tiny, and the method's folder with a short run."""
    for room in ("etude", "tasks"):
        (folder / room).symlink_to(ROOT / room)
    (folder / "models").mkdir()
    (folder / "models/tiny").symlink_to(base)
    own = folder / "pipelines" / method
    own.mkdir(parents=True)
    shutil.copy(ROOT / "pipelines" / method / "dvc.yaml", own)
    for code in ("__init__.py", "method"):
        (own / code).symlink_to(ROOT / "pipelines" / method / code)
    write_yaml(own / "params.yaml", params_of(method, **changes).model_dump(mode="json"))
    stage_params = {"base": "models/tiny", "device": "cpu", "precision": "fp32", "processes": 1, "seed": 3}
    stage_params |= {"threads": 1}
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
    for name in CAPTIONS:
        mean, logvar = torch.randn(4, 8, 8, generator=generator), torch.full((4, 8, 8), -6.0)
        write_tensors(folder / "latents" / f"{name}.safetensors", {"mean": mean, "logvar": logvar})
    (folder / "prepared").mkdir()
    for name, colour in zip(CAPTIONS, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (64, 64), colour).save(folder / "prepared" / f"{name}.png")
    index = {name: {"text": text, "file": f"text-{name}"} for name, text in CAPTIONS.items()}
    for name in [*(entry["file"] for entry in index.values()), "empty"]:
        write_tensors(folder / "texts" / f"{name}.safetensors", {"hidden": torch.randn(77, 32, generator=generator)})
    write_json(folder / "texts" / "index.json", {"captions": index, "empty": "empty"})
