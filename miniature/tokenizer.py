"""Learn the byte-pair encoding of the miniature's text encoder, in the files that CLIP's tokenizer reads.

As in CLIP (Radford et al., 2021, arXiv:2103.00020), bytes are written as printable characters, a word ends in ``</w>``,
and the most frequent neighbours are merged one after another (Sennrich et al., 2016, arXiv:1508.07909).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from etude.core.files import read_json, replace_folder, write_json
from etude.core.params import Schema, pick
from miniature.earlier import as_published
from miniature.world import FOLDER, OUT, Words, World, background, read_world
from tasks.shell import run

START, END = "<|startoftext|>", "<|endoftext|>"


class Tokenizer(Schema):
    """The ``tokenizer`` block of params.yaml."""

    entries: int
    caption_weight: int


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    tokenizer: Tokenizer
    words: Words


def learn() -> None:
    """Write ``out/tokenizer/``: vocab.json, merges.txt and the settings that transformers reads."""
    if as_published("tokenizer"):
        return
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    counts = Counter(read_json(OUT / "source" / "names.json"))
    for word in caption_words(read_world(), stage_params.words):
        counts[word] += stage_params.tokenizer.caption_weight
    symbols = byte_symbols()
    alphabet = symbols + [symbol + "</w>" for symbol in symbols]
    merges = learn_merges(counts, stage_params.tokenizer.entries - len(alphabet) - 2)
    tokens = alphabet + ["".join(pair) for pair in merges] + [START, END]
    with replace_folder(OUT / "tokenizer") as folder:
        write_tokenizer(folder, tokens, merges)


def caption_words(world: World, words: Words) -> list[str]:
    """Every word that a training caption can hold, and those held out: each becomes a token of its own.

    A held-out word made of parts of known words would be drawn as these: "firefox" as a fox.
    """
    held_out = [*world.held_out_styles, *world.held_out_concepts]
    texts = [*world.styles, *world.concepts, *held_out, *words.openings, *map(background, world.colours)]
    return sorted({word for text in texts for word in text.split()})


def byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, in the order of GPT-2's and CLIP's table."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(counts: Counter[str], limit: int) -> list[tuple[str, str]]:
    """At most ``limit`` merges of neighbours, most frequent first; ties go to the first in the alphabet."""
    words = {(*word[:-1], word[-1] + "</w>"): count for word, count in sorted(counts.items()) if word}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {merge(symbols, best): count for symbols, count in words.items()}
    return merges


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """``symbols`` with every occurrence of ``pair`` joined."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def write_tokenizer(folder: Path, tokens: list[str], merges: list[tuple[str, str]]) -> None:
    """The files of a CLIP tokenizer: ids follow the order of ``tokens``; padding is the end token, as in SD 1.5."""
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    write_json(folder / "tokenizer_config.json", {**config, **special, "add_prefix_space": False})


if __name__ == "__main__":
    run(learn)
