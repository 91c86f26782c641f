"""Texts of several chunks: what is behind the 75th token is learned where params.yaml asks for it, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from etude.base.loading import load_base
from etude.base.settings import PLAIN, Text
from etude.core.method import load_method
from etude.training.report import Report
from tests.pipelines.learning import image_set, params_of

TWO = Text(chunks=2, rule="kohya", emphasis="kohya")


def learned(path: Path, folder: Path, reading: Text, end: str) -> torch.Tensor:
    """The rows of a word that is learned beside captions of 80 tokens, which end in other ways."""
    base = load_base(path, reading=reading)
    data = image_set(base)
    texts = dict.fromkeys(data["images"].names, "otter " + "cat " * 78 + end)
    report = Report(folder, seed=3, device="cpu", precision="fp32")
    module = load_method("textual_inversion")
    given = {"images": data["images"], "captions": replace(data["captions"], texts=texts)}
    artifact = module.build(base=base, **given, params=params_of("textual_inversion", {"steps": 2}), report=report)
    return next(iter(artifact.tensors.values()))


def test_the_end_of_a_long_caption_counts_with_two_chunks(tiny_base: Path, tmp_path: Path) -> None:
    ends = ["red", "blue", "(blue:1.5)"]
    found = [learned(tiny_base, tmp_path / str(number), TWO, end) for number, end in enumerate(ends)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.filterwarnings("ignore::etude.base.text.PromptCutWarning")
def test_the_end_of_a_long_caption_does_not_count_with_one_chunk(tiny_base: Path, tmp_path: Path) -> None:
    found = [learned(tiny_base, tmp_path / end, PLAIN, end) for end in ("red", "blue")]
    assert torch.equal(*found)
