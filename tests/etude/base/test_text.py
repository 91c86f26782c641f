"""Prompts against diffusers' pipelines, and what happens to those that are too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTextModel

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.text import PromptCutWarning, encode_prompts, encode_tokens, tokenise
from etude.core.errors import BaseError

PROMPTS = ["a photo of a red cat, 'tis Ünïcode & 42!", "", "A  Photo\nof a DOG <|endoftext|> x"]
Pipelines = Callable[[str], DiffusionPipeline]


def theirs(pipeline: DiffusionPipeline, prompts: list[str], family: str, **settings: int) -> Conditioning:
    common = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, "device": "cpu"}
    outputs = [pipeline.encode_prompt(prompt=prompt, **common, **settings) for prompt in prompts]
    pooled = torch.cat([output[2] for output in outputs]) if family == "sdxl" else None
    return Conditioning(torch.cat([output[0] for output in outputs]), pooled)


def close(found: Conditioning, expected: Conditioning) -> None:
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0, atol=1e-10)
    if expected.pooled is not None:
        torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=1e-10)


def test_prompts_are_encoded_as_diffusers_encodes_them(base: Base, family: str, pipeline_of: Pipelines) -> None:
    close(encode_prompts(base, PROMPTS), theirs(pipeline_of(family), PROMPTS, family))


def test_only_sdxl_has_a_pooled_state(base: Base, family: str) -> None:
    found = encode_prompts(base, PROMPTS)
    assert found.hidden.shape == (3, 77, 80 if family == "sdxl" else 32)
    assert (None if found.pooled is None else found.pooled.shape) == ((3, 48) if family == "sdxl" else None)


@pytest.mark.parametrize("skip", [1, 3])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_clip_skip_is_a_text_encoder_without_its_last_layers(
    family: str, skip: int, loaded: Callable[[str], Base]
) -> None:
    base = loaded(family)
    shorter = type(base.text_encoders[0].config)(**base.text_encoders[0].config.to_dict())
    shorter.num_hidden_layers -= skip
    encoder = CLIPTextModel(shorter).double().eval()
    encoder.load_state_dict(base.text_encoders[0].state_dict(), strict=False)
    with torch.no_grad():
        expected = encode_prompts(replace(base, text_encoders=(encoder,)), PROMPTS)
    close(encode_prompts(base, PROMPTS, clip_skip=skip), expected)


def test_clip_skip_of_sdxl_is_diffusers(loaded: Callable[[str], Base], pipeline_of: Pipelines) -> None:
    expected = theirs(pipeline_of("sdxl"), PROMPTS, "sdxl", clip_skip=2)
    close(encode_prompts(loaded("sdxl"), PROMPTS, clip_skip=2), expected)


def test_skipping_every_layer_is_refused(sd1: Base) -> None:
    with pytest.raises(BaseError, match="all 12 layers"):
        encode_prompts(sd1, ["a cat"], clip_skip=12)


def test_a_long_prompt_is_cut_as_diffusers_cuts_it_and_says_where(
    base: Base, family: str, pipeline_of: Pipelines
) -> None:
    long = "a photo of " + "red cat " * 40
    with pytest.warns(PromptCutWarning, match="left out"):
        found = encode_prompts(base, [long])
    close(found, theirs(pipeline_of(family), [long], family))


def test_the_text_that_was_cut_is_what_the_tokens_do_not_hold(sd1: Base) -> None:
    exact, over = "cat " * 75, "cat " * 75 + "blue dog"
    assert tokenise(sd1, ["a cat", exact, over]).cut == ("", "", "blue dog")
    assert torch.equal(tokenise(sd1, [exact]).ids[0], tokenise(sd1, [over]).ids[0])


def test_prompts_that_fit_give_no_warning_and_one_row_each(sd1: Base) -> None:
    tokens = tokenise(sd1, ["a cat", "a cat on a dog"])
    start, end, pad = (getattr(sd1.tokenizers[0], f"{name}_token_id") for name in ("bos", "eos", "pad"))
    a, cat = sd1.tokenizers[0].convert_tokens_to_ids(["a</w>", "cat</w>"])
    assert tokens.ids[0][0].tolist() == [start, a, cat, end] + [pad] * 73
    assert tokens.ids[0].shape == (2, 77)


def test_no_prompts_are_no_rows(base: Base) -> None:
    assert [ids.shape for ids in tokenise(base, []).ids] == [(0, 77)] * len(base.text_encoders)


def test_a_prompt_does_not_depend_on_its_neighbours(base: Base) -> None:
    together = encode_prompts(base, PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        close(encode_prompts(base, [prompt]), together[[number]])


def test_conditionings_are_cut_joined_and_moved_as_one(base: Base) -> None:
    whole = encode_prompts(base, PROMPTS)
    again = Conditioning.cat([whole[:1], whole[1:]])
    close(again, whole)
    half = whole.to(dtype=torch.float16)
    assert len(half) == 3
    assert {tensor.dtype for tensor in (half.hidden, half.pooled) if tensor is not None} == {torch.float16}


def test_gradients_reach_a_text_encoder_that_asks_for_them(loaded: Callable[[str], Base]) -> None:
    base = loaded("sd1")
    weight = base.text_encoders[0].encoder.layers[0].mlp.fc1.weight
    weight.requires_grad_(True)
    try:
        encode_tokens(base, tokenise(base, ["a cat"])).hidden.square().sum().backward()
        assert weight.grad is not None
        assert float(weight.grad.abs().sum()) > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_encoding_without_a_text_encoder_says_what_to_load(sd1: Base) -> None:
    with pytest.raises(BaseError, match='"text"'):
        encode_prompts(replace(sd1, text_encoders=(), tokenizers=()), ["a cat"])
