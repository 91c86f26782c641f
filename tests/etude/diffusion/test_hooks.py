"""Changes that undo themselves: words against diffusers' textual inversion, and restoring bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.text import encode_prompts, tokenise
from etude.core.errors import BaseError, ConflictError, FormatError
from etude.diffusion.hooks import added_tokens, replaced_weights


def rows_for(base: Base, count: int, seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in base.text_encoders]
    return [torch.randn(count, width, generator=source, dtype=torch.float64) for width in widths]


def rows_of(base: Base, words: list[str]) -> list[Tensor]:
    """The rows that the table has for words of one token."""
    tables = [encoder.get_input_embeddings().weight for encoder in base.text_encoders]
    ids = base.tokenizers[0].convert_tokens_to_ids([f"{word}</w>" for word in words])
    return [table[ids].clone() for table in tables]


def equal(one: Conditioning, other: Conditioning) -> bool:
    same = torch.equal(one.hidden, other.hidden)
    return same and (one.pooled is None or torch.equal(one.pooled, other.pooled))


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_is_what_load_textual_inversion_makes_of_it(
    folder_of: Callable[[str], Path], sd1: Base, count: int
) -> None:
    vectors = rows_for(sd1, count)[0]
    pipeline = StableDiffusionPipeline.from_pretrained(folder_of("sd1"), dtype=torch.float64, local_files_only=True)
    pipeline.load_textual_inversion(vectors, token="<otter>")
    prompt = "a photo of <otter>, on a red <otter>"
    expected = pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]

    with added_tokens(sd1, {"<otter>": vectors}):
        found = encode_prompts(sd1, [prompt]).hidden

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_rows_copied_from_known_words_read_like_those_words(base: Base) -> None:
    """Also for sdxl's pooled state, which stands at the end token whatever words are added."""
    expected = encode_prompts(base, ["a photo of a red cat, happy", "a dog"])
    with added_tokens(base, {"MyConcept": rows_of(base, ["red", "cat"])}):
        found = encode_prompts(base, ["a photo of a MyConcept, happy", "a dog"])
    assert equal(found, expected)


def test_a_word_is_found_in_any_case_and_only_as_a_word(sd1: Base) -> None:
    with added_tokens(sd1, {"Sks": rows_for(sd1, 1)[0]}):
        ids = tokenise(sd1, ["a sks", "a SKS.", "masks", "sks2", "(Sks:1)"]).ids[0]
    assert [int((row < 0).sum()) for row in ids] == [1, 1, 0, 0, 1]


def test_the_longest_of_two_words_is_taken(sd1: Base) -> None:
    words = {"my cat": rows_for(sd1, 1)[0], "my cat's friend": rows_for(sd1, 2, seed=1)[0]}
    with added_tokens(sd1, words):
        ids = tokenise(sd1, ["my cat's friend and my cat"]).ids[0][0]
    assert ids[ids < 0].tolist() == [-2, -3, -1]


def test_the_rows_of_a_word_stay_together(sd1: Base) -> None:
    with added_tokens(sd1, {"sks": rows_for(sd1, 4)[0]}):
        fits = tokenise(sd1, ["cat " * 71 + "sks"])
        over = tokenise(sd1, ["cat " * 72 + "sks dog"])
    assert (int((fits.ids[0] < 0).sum()), fits.cut) == (4, ("",))
    assert (int((over.ids[0] < 0).sum()), over.cut) == (0, ("sks dog",))


def test_words_of_nested_contexts_work_together(sd1: Base) -> None:
    expected = encode_prompts(sd1, ["red cat dog"])
    with added_tokens(sd1, {"one": rows_of(sd1, ["red", "cat"])}):
        with added_tokens(sd1, {"two": rows_of(sd1, ["dog"])}):
            assert equal(encode_prompts(sd1, ["one two"]), expected)
            inside = tokenise(sd1, ["two one"]).ids[0]
        assert equal(encode_prompts(sd1, ["one dog"]), expected)
    assert inside[0, 1:4].tolist() == [-3, -1, -2]


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_restores_the_base_bit_for_bit(base: Base, fails: bool) -> None:
    prompts = ["a photo of sks", "a cat"]
    before = encode_prompts(base, prompts)
    tables = [encoder.get_input_embeddings().weight.clone() for encoder in base.text_encoders]
    sizes = [len(tokenizer) for tokenizer in base.tokenizers]

    def use() -> None:
        with added_tokens(base, {"sks": rows_for(base, 2)}):
            assert not equal(encode_prompts(base, prompts), before)
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            use()
    else:
        use()

    assert equal(encode_prompts(base, prompts), before)
    for encoder, table in zip(base.text_encoders, tables, strict=True):
        module = encoder.get_input_embeddings()
        assert torch.equal(module.weight, table)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert [len(tokenizer) for tokenizer in base.tokenizers] == sizes
    assert not base.words


def test_the_gradient_flows_to_the_rows_and_nowhere_else(base: Base) -> None:
    rows = [tensor.requires_grad_(True) for tensor in rows_for(base, 3)]
    with added_tokens(base, {"sks": rows}):
        said = encode_prompts(base, ["a photo of sks", "sks sks"])
        (said.hidden.square().sum() + (0 if said.pooled is None else said.pooled.square().sum())).backward()
    for row, encoder in zip(rows, base.text_encoders, strict=True):
        assert row.grad is not None
        assert bool((row.grad.abs().sum(dim=1) > 0).all())
        assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_gradient_of_a_row_is_that_of_its_place_in_the_table(sd1: Base) -> None:
    table = sd1.text_encoders[0].get_input_embeddings().weight
    place = sd1.tokenizers[0].convert_tokens_to_ids("cat</w>")
    twin = copy.deepcopy(sd1.text_encoders[0])
    twin.get_input_embeddings().weight.requires_grad_(True)
    twin(tokenise(sd1, ["a cat, red cat"]).ids[0]).last_hidden_state.square().sum().backward()

    row = table[[place]].clone().requires_grad_(True)
    with added_tokens(sd1, {"sks": row}):
        encode_prompts(sd1, ["a sks, red sks"]).hidden.square().sum().backward()

    torch.testing.assert_close(row.grad[0], twin.get_input_embeddings().weight.grad[place])


def test_a_copy_of_the_text_encoder_reads_the_words_from_its_own_table(sd1: Base) -> None:
    with added_tokens(sd1, {"sks": rows_of(sd1, ["cat"])}):
        ids = tokenise(sd1, ["a red sks"]).ids[0]
        twin = copy.deepcopy(sd1.text_encoders[0])
        with torch.no_grad():
            twin.get_input_embeddings().weight.zero_()
        hidden = twin.embeddings.token_embedding(ids)
    assert not bool(hidden[0, :3].any())
    assert torch.equal(hidden[0, 3], rows_of(sd1, ["cat"])[0][0])


@pytest.mark.parametrize("name", ["sks", "SKS"])
def test_a_word_that_is_in_force_is_not_added_twice(sd1: Base, name: str) -> None:
    with added_tokens(sd1, {"sks": rows_for(sd1, 1)}):
        with pytest.raises(ConflictError, match=name), added_tokens(sd1, {name: rows_for(sd1, 1)}):
            pass
        assert list(sd1.words) == ["sks"]


def test_two_words_that_the_tokenizer_tells_apart_are_two(sd1: Base) -> None:
    words = {"sks": rows_for(sd1, 1)[0], "ſks": rows_for(sd1, 1)[0], "caf\u00e9": rows_for(sd1, 1)[0]}
    with added_tokens(sd1, words):
        ids = tokenise(sd1, ["ſks SKS cafe\u0301"]).ids[0][0]
        assert ids[1:4].tolist() == [-2, -1, -3]
        with pytest.raises(ConflictError, match="already"), added_tokens(sd1, {"cafe\u0301": rows_for(sd1, 1)}):
            pass


def test_two_words_that_differ_in_case_alone_would_hide_each_other(sd1: Base) -> None:
    words = {"Sks": rows_for(sd1, 1), "other": rows_for(sd1, 1), "sKS": rows_for(sd1, 1)}
    with pytest.raises(ConflictError, match="sKS: was already added as a word"), added_tokens(sd1, words):
        pass
    assert not sd1.words


@pytest.mark.parametrize("shape", [(2, 768), (0, 32), (32,), (), (1, 2, 32)])
def test_rows_of_another_base_are_refused(sd1: Base, shape: tuple[int, ...]) -> None:
    with pytest.raises(BaseError, match=r"give \[n, 32\]"), added_tokens(sd1, {"sks": torch.zeros(shape)}):
        pass
    with pytest.raises(BaseError, match=r"of shape nothing\. Next: give \[n, 32\]"), added_tokens(sd1, {"sks": []}):
        pass
    assert not sd1.words


def test_sdxl_wants_rows_for_both_encoders(loaded: Callable[[str], Base]) -> None:
    base = loaded("sdxl")
    with pytest.raises(BaseError, match=r"\[n, 32\] and \[n, 48\]"), added_tokens(base, {"sks": torch.zeros(1, 32)}):
        pass


def test_replaced_weights_act_and_leave_no_trace(sd1: Base) -> None:
    module = sd1.unet.conv_in
    before = {name: (parameter, parameter.clone()) for name, parameter in module.named_parameters()}
    pictures = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answer = module(pictures)

    with replaced_weights(module, {"weight": torch.zeros(module.weight.shape, dtype=torch.float16)}):
        assert module.weight.dtype == torch.float64
        torch.testing.assert_close(module(pictures), module.bias.reshape(1, -1, 1, 1).expand_as(answer))

    for name, parameter in module.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert torch.equal(module(pictures), answer)


def test_weights_that_do_not_fit_are_refused_before_anything_changes(sd1: Base) -> None:
    module = sd1.unet.conv_in
    before = module.weight.clone()
    good = torch.zeros_like(module.weight)
    for bad, says in (
        ({"bias": torch.zeros(1)}, r"bias has shape \[1\]"),
        ({"scale": torch.zeros(1)}, "such as scale"),
    ):
        with pytest.raises(FormatError, match=says), replaced_weights(module, {"weight": good, **bad}):
            pass
        assert torch.equal(module.weight, before)
