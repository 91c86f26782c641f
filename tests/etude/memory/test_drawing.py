"""The memory of drawing, counted on a base with few layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from etude.base.whole import empty_model
from etude.core.families import FAMILIES
from etude.diffusion import hooks
from etude.diffusion.hooks import replaced_weights
from etude.memory.base import empty_base
from etude.memory.counter import counting
from etude.memory.drawing import count_drawing
from etude.memory.footprint import Setup
from etude.training.opening import Opening
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


def test_the_weights_that_an_artifact_replaces_wait_on_the_host(tiny_base: Path) -> None:
    how = Opening(("unet",), (), "bf16", lambda _: False, recompute=False)
    with counting() as counter, patch.object(hooks, "to_host", counter.put_aside):
        unet = empty_base(tiny_base, "sd1", how).unet
        others = {name: counter.put_aside(torch.empty(p.shape)) for name, p in unet.named_parameters()}
        largest = max(tensor.nbytes for tensor in others.values())
        counter.restart()
        before = counter.now
        with replaced_weights(unet, others, 0.5):
            assert counter.now <= before
        assert counter.peak - before < 5 * largest  # the interpolation of one weight, in float32
        assert 5 * largest < before
