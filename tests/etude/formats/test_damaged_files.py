"""Files with other entries, renamed or of other types: each is read, or is one error of Étude's. See `tests.fuzz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from etude.core.errors import EtudeError
from etude.formats import FORMATS, read
from etude.formats.kinds import open_any

ROWS = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
STATES = {"linear.0.weight": torch.randn(8, 4), "linear.0.bias": torch.zeros(8)}
STATES |= {"linear.2.weight": torch.randn(4, 8), "linear.2.bias": torch.zeros(4)}
FILES: dict[str, Any] = {
    "kohya.safetensors": {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.randn(2, 4)}
    | {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.randn(4, 2)},
    "sks.safetensors": {"emb_params": ROWS},
    "pair.safetensors": {"clip_l": ROWS, "clip_g": torch.randn(2, 1280)},
    "learned_embeds.bin": {"<sks>": ROWS},
    "sks.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": "sks", "step": 3},
    "network.pt": {4: (STATES, STATES), "activation_func": "relu", "activate_output": False, "name": "n"},
    "aesthetic.pt": ROWS[:1],
    "delta.bin": {"unet": {"conv_in.weight": ROWS}, "modifier_token": {"<new>": ROWS[0]}},
}
VALUES = (None, 3, -1.5, "text", [], {}, torch.zeros(0), torch.zeros(()), ROWS.int(), ROWS[None], ROWS / 0, ROWS.bool())


def write(path: Path, data: Any) -> None:
    save_file(data, path) if path.suffix == ".safetensors" else torch.save(data, path)


def open_or_refuse(path: Path) -> None:
    told, tensors = "", {}
    try:
        tensors = open_any(path)[1].tensors
    except EtudeError as error:
        told = str(error)
    assert not told or (str(path) in told and len(told.splitlines()) == 1)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


def spoiled(data: Any, value: Any) -> list[Any]:
    """``data`` with each of its entries in turn, at any depth, replaced, renamed or removed."""
    if not isinstance(data, dict):
        return [value]
    found: list[Any] = []
    for key, entry in data.items():
        rest = {name: other for name, other in data.items() if name != key}
        found += [rest, rest | {f"{key}x": entry}]
        for changed in spoiled(entry, value):
            found.append(rest | {key: changed})
    return found


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value", VALUES, ids=[str(number) for number in range(len(VALUES))])
def test_other_entries_are_read_or_refused(name: str, value: Any, tmp_path: Path) -> None:
    for data in spoiled(FILES[name], value):
        if name.endswith(".safetensors"):
            data = {key: entry.clone() for key, entry in data.items() if isinstance(entry, torch.Tensor)}
        write(tmp_path / name, data)
        open_or_refuse(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_not_there_is_an_error_of_etudes(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path / "gone.pt", tmp_path / "gone.png", tmp_path):
        with pytest.raises(EtudeError, match="Next: "):
            read(name, path)
