"""The words of embeddings: right, or refused in a line; never one that no prompt can reach."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from etude.base.loading import load_base
from etude.base.text import tokenise
from etude.core.artifact import Artifact
from etude.core.errors import EtudeWarning, FormatError
from etude.core.files import Draft
from etude.diffusion.hooks import added_tokens
from etude.formats import load_format
from etude.formats.kinds import open_any
from etude.formats.words import choose_word, choose_words

ROWS = torch.ones(2, 768)
CANNOT = {
    "a newline": "zo\nrk",
    "a tab": "zo\trk",
    "nothing": "zo\u200brk",
    "a mark of order": "\ufeffzork",
    "half a letter": "zo\udcffrk",
    "a placeholder": "a [name]",
    "too long": "z" * 256,
    "too long in bytes": "\u00e9" * 128,
}


def word_in(path: Path) -> str:
    return str(open_any(path)[1].facts["name"])


@pytest.mark.parametrize("kind", CANNOT)
def test_a_name_that_cannot_be_typed_is_refused_wherever_it_is_from(kind: str) -> None:
    with pytest.raises(FormatError, match="has the name .*Next: rename the file") as caught:
        choose_word("x.pt", CANNOT[kind], "zork")
    assert "\n" not in str(caught.value)
    with pytest.raises(FormatError):
        choose_words("x.safetensors", ["owl", CANNOT[kind]])


@pytest.mark.parametrize("text", [None, "", "  ", "None", "*", "***", "<>", "\u200d"])
def test_a_text_that_names_nothing_leaves_the_word_to_the_next(text: str | None) -> None:
    assert choose_word("x.pt", text, "zork") == "zork"
    with pytest.raises(FormatError, match="no name that can be a word"):
        choose_word("x.pt", text)


def test_a_word_is_as_it_is_with_single_spaces() -> None:
    for word in ("zork", "<zork>", "zork-neg", "a b", "Zörk", "梟", "🦉", "\u0645\u06cc\u200c\u062e\u0648"):
        assert choose_word("x.pt", word) == word
    assert choose_word("x.pt", "  a \u00a0 b ") == "a b"
    with pytest.raises(FormatError, match="has the name '5', which is a int"):
        choose_word("x.pt", 5, "zork")


@pytest.mark.parametrize("word", ["z" * 255, "\u00e9" * 127, "7", "a [names]"])
def test_a_word_may_be_as_long_as_the_name_of_a_file(word: str) -> None:
    assert choose_word("x.pt", word, "zork") == word


def test_two_words_that_are_one_in_prompts_are_refused() -> None:
    for pair in (["cat", "cat_1"], ["maß", "mass"], ["sks", "ſks"]):
        assert choose_words("x", pair) == pair
    for pair in (["Cat", "cat"], ["a  b", "a b"], ["cat ", "cat"], ["\u00e9", "e\u0301"], ["maß", "MAẞ"]):
        with pytest.raises(FormatError, match="which prompts cannot tell apart"):
            choose_words("x", pair)


def test_the_words_in_the_file_of_a_lora_are_checked(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
    tensors = {f"{stem}.lora_down.weight": torch.ones(2, 8), f"{stem}.lora_up.weight": torch.ones(8, 2)}
    save_file({**tensors, "bundle_emb. zork .clip_l": ROWS}, tmp_path / "x.safetensors")
    assert open_any(tmp_path / "x.safetensors")[1].facts["words"] == ["zork"]
    for other in ("bundle_emb.ZORK.clip_l", "bundle_emb.a\nb.clip_l", "bundle_emb.*.clip_l"):
        save_file({**tensors, "bundle_emb.zork.clip_l": ROWS, other: ROWS.clone()}, tmp_path / "x.safetensors")
        with pytest.raises(FormatError):
            open_any(tmp_path / "x.safetensors")


@pytest.mark.parametrize("inside", ["old", 5, None, "None", ["zork"]])
def test_a_pickled_embedding_is_called_as_its_file_as_in_a1111(inside: Any, tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": ROWS}, "name": inside}, tmp_path / "zork.pt")
    assert word_in(tmp_path / "zork.pt") == "zork"


def test_a_name_inside_counts_where_the_file_was_called_by_it(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": ROWS}, "name": "<zork>"}, tmp_path / "zork.pt")
    assert word_in(tmp_path / "zork.pt") == "<zork>"
    save_file({"emb_params": ROWS}, tmp_path / "zork.safetensors", {"modelspec.trigger_phrase": "<zork>"})
    assert word_in(tmp_path / "zork.safetensors") == "<zork>"
    save_file({"emb_params": ROWS}, tmp_path / "zork.safetensors", {"modelspec.trigger_phrase": "None"})
    assert word_in(tmp_path / "zork.safetensors") == "zork"


def test_a_word_inside_that_is_not_the_files_is_told(tmp_path: Path) -> None:
    save_file({"emb_params": ROWS}, tmp_path / "12345.safetensors", {"modelspec.trigger_phrase": "zork"})
    with pytest.warns(EtudeWarning, match="its word is `zork`.*take `12345`"):
        assert word_in(tmp_path / "12345.safetensors") == "zork"
    assert open_any(tmp_path / "12345.safetensors", name="owl")[1].facts["name"] == "owl"
    data = {"string_to_param": {"*": {"TORCHTENSOR": ROWS.tolist()}}, "name": 5}
    information = PngInfo()
    information.add_text("sd-ti-embedding", base64.b64encode(json.dumps(data).encode()).decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=information)
    with pytest.raises(FormatError, match="which is a int"):
        open_any(tmp_path / "x.png")


def test_words_of_several_rows_each_are_no_vectors_of_one_word(tmp_path: Path) -> None:
    torch.save({"cat": ROWS, "cat_1": ROWS}, tmp_path / "learned_embeds.bin")
    with pytest.raises(FormatError, match=r"several words \('cat', 'cat_1'\)"):
        open_any(tmp_path / "learned_embeds.bin")
    torch.save({"step": ROWS.long()}, tmp_path / "learned_embeds.bin")
    with pytest.raises(FormatError, match=r"int64 in place of rows"):
        open_any(tmp_path / "learned_embeds.bin")


def test_letters_that_the_tokenizer_makes_equal_are_found_in_a_prompt(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("text",))
    rows = tuple(torch.ones(1, encoder.get_input_embeddings().embedding_dim) for encoder in base.text_encoders)
    for word, prompt, found in (
        ("sks", "a s\u212as", True),
        ("sks", "a \u017fks", False),
        ("\u0130ks", "a \u0130ks", True),
    ):
        with added_tokens(base, {word: rows}):
            assert (-1 in tokenise(base, [prompt]).ids[0]) == found


def test_the_first_codes_file_is_read_and_what_would_be_lost_is_refused(tmp_path: Path) -> None:
    vectors = torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS)})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": vectors}, tmp_path / "zork.pt")
    assert open_any(tmp_path / "zork.pt")[1].tensors["text_encoder"].equal(ROWS)
    torch.save({"string_to_param": {"*": ROWS}, "clip_g": ROWS}, tmp_path / "zork.pt")
    with pytest.raises(FormatError, match="`clip_g` beside `string_to_param`"):
        open_any(tmp_path / "zork.pt")
    torch.save({"string_to_param": {"<a>": ROWS, "<b>": ROWS}}, tmp_path / "zork.pt")
    with pytest.raises(FormatError, match="2 words"):
        open_any(tmp_path / "zork.pt")


@pytest.mark.parametrize("form", ["embedding_pt", "embedding_safetensors", "embedding_image"])
def test_a_word_that_no_file_can_be_called_by_whole_is_not_written_cut(form: str, tmp_path: Path) -> None:
    """Programs know these embeddings by the names of their files alone."""
    for word, is_written in (("é" * 50, True), ("é" * 50 + "x", False)):
        made = Artifact("textual_inversion", {"text_encoder": torch.ones(1, 8)}, {"name": word, "family": "sd1"})
        if is_written:
            assert load_format(form).write(made, Draft(tmp_path))[0].stem == word
        else:
            with pytest.raises(FormatError, match="would be cut"):
                load_format(form).write(made, Draft(tmp_path))


def test_a_token_in_angle_brackets_may_have_a_dot_and_a_name_of_a_layer_is_no_token(tmp_path: Path) -> None:
    save_file({"<owl.v2>": ROWS}, tmp_path / "owl.safetensors")
    assert word_in(tmp_path / "owl.safetensors") == "<owl.v2>"
    save_file({"conv_in.weight": ROWS}, tmp_path / "layer.safetensors")
    with pytest.raises(FormatError, match="a format that Étude does not know"):
        open_any(tmp_path / "layer.safetensors")
