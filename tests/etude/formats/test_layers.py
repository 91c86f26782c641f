"""The factors of a layer in LoRA files: all that belong together are there, or the missing one is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.errors import FormatError
from etude.formats.lora import kohya_lora
from tests.fuzz.loras import KINDS, LAYERS

LAYER, (STEM, *_) = next(iter(LAYERS.items()))
NOT_NEEDED = {"alpha", "scalar", "dora_scale", "rescale", "diff", "diff_b"}
NEEDED = [(kind, suffix) for kind, shapes in KINDS.items() for suffix in shapes if suffix not in NOT_NEEDED]


def tensors_of(kind: str) -> dict[str, Tensor]:
    """A layer of the kind, [16, 16], as kohya and LyCORIS write it."""
    source = torch.Generator().manual_seed(0)
    tensors = {f"{STEM}.{suffix}": torch.randn(shape, generator=source) for suffix, shape in KINDS[kind].items()}
    return tensors | ({f"{STEM}.on_input": torch.tensor(1)} if kind == "ia3" else {})


@pytest.mark.parametrize(("kind", "lost"), [(kind, lost) for kind, lost in NEEDED if kind != "boft"])
def test_a_layer_without_one_of_its_factors_is_refused_with_the_name_of_the_factor(
    tmp_path: Path, kind: str, lost: str
) -> None:
    tensors = tensors_of(kind)
    del tensors[f"{STEM}.{lost}"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=rf"`{re.escape(LAYER)}` has no {re.escape(lost)}\. Next: fetch"):
        kohya_lora.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (2, 4, 4, 2)])
def test_blocks_of_a_rotation_that_are_not_square_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({f"{STEM}.oft_blocks": torch.zeros(shape)}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=r"has factors that do not fit: oft_blocks"):
        kohya_lora.read(tmp_path / "a.safetensors")
