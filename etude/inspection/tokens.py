"""How much of a caption a text encoder reads, counted with CLIP's own tokenizer, without transformers."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

VOCABULARY = Path(__file__).parents[1] / "base/configs/clip_merges.txt.gz"  # a dep of *set_page*
READ = 75  # tokens of a chunk that a text encoder reads, between the start token and the end token
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
# CLIP's pieces of a text: ends of words, words, single digits, and runs of other signs
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Length(NamedTuple):
    """The number of a text's tokens, and the part at its end that is not read; empty if all is read."""

    tokens: int
    cut: str


def measure_text(text: str, read: int = READ) -> Length:
    """The length of a caption alone, without a method's prompt around it, if ``read`` tokens are read.

    A chunk that ends after a comma, by A1111's rule, has fewer tokens.
    """
    encoding = _tokenizer().encode(text)
    count = len(encoding.ids)
    return Length(count, text[encoding.offsets[read][0] :] if count > read else "")


@cache
def _tokenizer() -> Tokenizer:
    """CLIP's byte-level BPE. Its ids are not CLIP's, because only their number is used."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").splitlines()[1:]
    merges = [(first, second) for first, second in map(str.split, lines)]
    single = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*single, *(symbol + "</w>" for symbol in single), *map("".join, merges), *SPECIAL]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
