"""Weights of whole models under the names that all readers share."""

from __future__ import annotations

import pytest
import torch

from etude.core.families import FAMILIES
from etude.core.model_files import BLOCK, _from_open_clip

(ENCODER,) = FAMILIES["sd2"].text_encoders


@pytest.mark.parametrize(("rows", "letters"), [(6, "qkv"), (2, "qk"), (1, "q")])
def test_a_fused_weight_of_openclip_is_cut_in_three_or_what_is_missing_has_no_name(rows: int, letters: str) -> None:
    fused = torch.arange(rows * 4.0).reshape(rows, 4)
    found = list(_from_open_clip(ENCODER, [("a", f"{BLOCK}3.attn.in_proj_weight", fused)]))
    assert [(origin, name) for origin, name, _ in found] == [
        ("a", f"encoder.layers.3.self_attn.{letter}_proj.weight") for letter in letters
    ]
    assert torch.cat([tensor for _, _, tensor in found]).equal(fused)
