"""Parts that wait on the host: where they are while they are used, and afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.base import waiting
from etude.base.latents import decode_latents, decode_pixels, encode_images
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.base.waiting import absent, discard, present
from etude.core.errors import BaseError
from etude.core.params import Part


def test_a_part_that_waits_is_brought_once_for_all_that_uses_it_and_sent_back_also_after_an_error(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []
    monkeypatch.setattr(waiting, "bring", lambda module, device: moves.append(f"{type(module).__name__} to {device}"))
    monkeypatch.setattr(waiting, "send", lambda module: moves.append(f"{type(module).__name__} back"))
    base = load_base(tiny_base, waiting=("vae", "text"))
    assert base.waiting == {"vae", "text"}
    with pytest.raises(KeyboardInterrupt), present(base, "text"):
        encode_prompts(base, ["cat"])
        encode_prompts(base, ["dog"])
        raise KeyboardInterrupt
    assert moves == ["CLIPTextModel to cpu", "CLIPTextModel back"]
    decode_latents(base, torch.zeros(1, 4, 8, 8))
    decode_pixels(base, torch.zeros(1, 4, 8, 8))
    encode_images(base, torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert moves[2:] == ["AutoencoderKL to cpu", "AutoencoderKL back"] * 3
    assert base.waiting == {"vae", "text"}


def test_a_part_makes_room_for_another_and_comes_back(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []
    monkeypatch.setattr(waiting, "bring", lambda module, device: moves.append(f"{type(module).__name__} to {device}"))
    monkeypatch.setattr(waiting, "send", lambda module: moves.append(f"{type(module).__name__} back"))
    base = load_base(tiny_base, parts=("unet",))
    with pytest.raises(KeyboardInterrupt), absent(base, "unet"):
        moves.append("work")
        raise KeyboardInterrupt
    assert moves == ["UNet2DConditionModel back", "work", "UNet2DConditionModel to cpu"]


def test_a_part_that_does_not_wait_stays_where_it_is(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "bring", None)  # a call would fail
    base = load_base(tiny_base, waiting=("vae",), parts=("text",))
    assert base.waiting == set()  # what is not loaded does not wait
    with present(base, "text"):
        encode_prompts(base, ["cat"])


@pytest.mark.parametrize("part", ["vae", "text"])
def test_a_part_that_waits_is_loaded_on_the_host_and_the_others_on_the_device(tiny_base: Path, part: Part) -> None:
    base = load_base(tiny_base, device="meta", waiting=(part,))
    devices = {"unet": base.unet.device.type, "vae": base.vae.device.type, "text": base.text_encoders[0].device.type}
    assert devices == {"unet": "meta", "vae": "meta", "text": "meta"} | {part: "cpu"}


def test_a_part_that_is_discarded_takes_no_memory_and_cannot_be_used_any_more(tiny_base: Path) -> None:
    base = load_base(tiny_base, waiting=("text",))
    held = [*base.text_encoders[0].parameters()]  # as `learning` holds the weights of all parts
    discard(base, "text")
    assert base.waiting == set()
    assert {tensor.untyped_storage().nbytes() for tensor in held} == {0}
    assert {tensor.device.type for tensor in base.text_encoders[0].state_dict().values()} == {"meta"}
    with pytest.raises(BaseError, match="freed before the first step"):
        encode_prompts(base, ["cat"])
