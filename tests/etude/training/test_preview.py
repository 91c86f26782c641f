"""What is drawn on the way: with the learned word, without dropout, and the model goes on learning afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from etude.base.base import Base
from etude.diffusion.sample import generate
from etude.training import fit
from etude.training.preview import Preview, draw, encode, evaluating

SAMPLING: dict[str, Any] = {"sampler": "ddim", "steps": 2, "guidance": 3.0, "negative": "sad", "clip_skip": 1}


def modes(base: Base) -> list[bool]:
    return [module.training for part in (base.unet, *base.text_encoders) for module in part.modules()]


@pytest.fixture
def learning(sd1: Base) -> Any:
    """A base of which some modules are in training mode."""
    parts = (sd1.unet.mid_block, sd1.text_encoders[0].encoder.layers[0])
    for part in parts:
        part.train()
    yield sd1
    for part in parts:
        part.eval()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_drops_out_inside_and_each_module_is_in_its_own_mode_again(learning: Base, fails: bool) -> None:
    before = modes(learning)
    assert {*before} == {True, False}
    try:
        with evaluating(learning):
            assert not any(modes(learning))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert modes(learning) == before


def test_the_pictures_of_all_seeds_stand_in_a_row_for_each_prompt_with_the_word_that_is_learned(sd1: Base) -> None:
    preview = Preview(prompts=["a photo of [name]", "[name]"], seeds=[3, 5], every=0, **SAMPLING)
    drawn = draw(sd1, preview, "cat", "fp32")
    assert drawn.size == (128, 128)
    for row, prompt in enumerate(("a photo of cat", "cat")):
        pictures = generate(sd1, [prompt] * 2, seeds=[3, 5], **SAMPLING).numpy()
        for column, pixels in enumerate(pictures):
            one = drawn.crop((64 * column, 64 * row, 64 * column + 64, 64 * row + 64))
            assert one.tobytes() == Image.fromarray(pixels).tobytes()
    assert torch.is_grad_enabled()


def test_before_and_after_each_step_of_a_picture_recorded_graphs_may_be_used_again(
    sd1: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[None] = []
    monkeypatch.setattr(fit, "release_recordings", lambda: released.append(None))
    draw(sd1, Preview(prompts=["cat", "fox"], seeds=[3], every=0, **SAMPLING), "cat", "fp32")
    assert len(released) == 1 + 2 * SAMPLING["steps"]


def test_texts_that_were_encoded_at_the_start_draw_the_same_picture_without_a_text_encoder(
    sd1: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = Preview(prompts=["a photo of [name]", "[name]"], seeds=[3, 5], every=0, **SAMPLING)
    expected, texts = draw(sd1, preview, "cat", "fp32"), encode(sd1, preview, "cat", "fp32")
    monkeypatch.setattr(type(sd1.text_encoders[0]), "forward", None)  # a call would fail
    assert draw(sd1, preview, "cat", "fp32", texts).tobytes() == expected.tobytes()
