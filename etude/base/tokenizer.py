"""CLIP's tokenizer: from a base's folder, or for a single file CLIP's own, which all families share."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from etude.base.libraries import CLIPTokenizer
from etude.base.single import CONFIGS
from etude.core.errors import BaseError


def load_tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """The tokenizer in ``folder``, or CLIP's own with the padding token ``pad`` if there is no such folder.

    Raises BaseError for a damaged one.
    """
    if folder.is_dir():
        try:
            tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            tokenizer("a", verbose=False)  # fails if the configuration has a wrong value, such as a text as a length
            return tokenizer
        except Exception as error:  # the Rust library that reads it raises plain Exception
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BaseError(
                folder, f"is no tokenizer of CLIP, or damaged ({reason})", "fetch the base again"
            ) from error
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), pad_token=pad, model_max_length=77)


@cache
def _clip_vocabulary() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Token → id, and merges. The order of ids: bytes, bytes at the end of a word, merges, two special tokens."""
    lines = gzip.decompress((CONFIGS / "clip_merges.txt.gz").read_bytes()).decode("utf-8").splitlines()[1:]
    merges = tuple((first, second) for first, second in map(str.split, lines))
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len(set(range(256)) - set(printable))
    single = [*map(chr, printable), *(chr(256 + number) for number in range(others))]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*single, *(symbol + "</w>" for symbol in single), *(a + b for a, b in merges), *specials]
    return {token: number for number, token in enumerate(tokens)}, merges
