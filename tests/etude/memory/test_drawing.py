"""The memory of drawing, counted on a base with few layers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from etude.base.whole import empty_model
from etude.core.families import FAMILIES
from etude.memory.drawing import count_drawing
from etude.memory.footprint import Setup
from tests.etude.conftest import change


def test_drawing_needs_all_parts_in_the_precision_and_a_step_or_the_decoding(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    change(base / "unet/config.json", layers_per_block=1)
    change(base / "vae/config.json", layers_per_block=1)
    change(base / "text_encoder/config.json", num_hidden_layers=1)
    found = count_drawing(Setup(base, "sd1", 64, "bf16"), 2)
    parts = [empty_model(base, base / part, FAMILIES["sd1"], part) for part in ("unet", "vae", "text_encoder")]
    values = sum(each.numel() for part in parts for each in part.parameters())
    assert found.weights == pytest.approx(2 * values, rel=0.25)  # each tensor takes whole blocks
    assert found.previews > 2 * 2 * 64 * 64 * 3  # the decoded pictures, in bf16
    assert found.peak == found.weights + max(found.activations, found.previews)
