"""What a loss is conditioned on: another wording, other layers, and captions that are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.settings import Text
from etude.base.text import encode_prompts
from etude.core.errors import TrainingError
from etude.core.shards import Shards
from etude.training.batches import Batch, Captions
from etude.training.conditioning import PLAIN, apply_wording, encode_live, use_cached

TEXTS = ("a cat", "a dog", "a red cat", "a blue dog")


def batch(conditioning: Conditioning | None = None) -> Batch:
    mean = torch.zeros(len(TEXTS), 4, 8, 8)
    return Batch(TEXTS, mean, mean, TEXTS, conditioning)


def dropped(share: float) -> list[bool]:
    """Which captions are left out after this seed; with 0.5 some are and some are not."""
    torch.manual_seed(1)
    return (torch.rand(len(TEXTS)) < share).tolist()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_cached_captions_is_the_empty_text_in_all_its_parts(share: float, pooled: bool) -> None:
    own = Conditioning(torch.randn(4, 77, 2), torch.randn(4, 3) if pooled else None)
    empty = Conditioning(torch.randn(1, 77, 2), torch.randn(1, 3) if pooled else None)
    without = dropped(share)
    assert share != 0.5 or {*without} == {True, False}
    torch.manual_seed(1)
    found = use_cached(batch(own), empty, share)
    for number, drop in enumerate(without):
        assert torch.equal(found.hidden[number], (empty.hidden[0] if drop else own.hidden[number]))
        if own.pooled is None or empty.pooled is None:
            assert found.pooled is None
        else:
            assert found.pooled is not None
            assert torch.equal(found.pooled[number], (empty.pooled[0] if drop else own.pooled[number]))


def test_where_no_caption_is_left_out_nothing_is_drawn(sd1: Base) -> None:
    own = Conditioning(torch.randn(4, 77, 32))
    before = torch.get_rng_state()
    use_cached(batch(own), own[:1], 0.0)
    encode_live(sd1, batch(), 0.0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("share", "clip_skip"), [(0.0, 0), (0.5, 0), (0.5, 2)])
def test_live_captions_are_encoded_with_the_same_share_left_out(sd1: Base, share: float, clip_skip: int) -> None:
    texts = ["" if drop else text for text, drop in zip(TEXTS, dropped(share), strict=True)]
    torch.manual_seed(1)
    found = encode_live(sd1, batch(), share, clip_skip)
    torch.testing.assert_close(found.hidden, encode_prompts(sd1, texts, clip_skip).hidden, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    ("wording", "clip_skip", "expected"),
    [("[name], [caption]", 0, "owl, a cat"), (PLAIN, 2, "a cat"), ("a photo of [name]", 1, "a photo of owl")],
)
def test_captions_are_encoded_in_another_wording_and_by_other_layers_and_so_is_the_empty_text(
    family: str, wording: str, clip_skip: int, expected: str, loaded: Callable[[str], Base], tmp_path: Path
) -> None:
    base = loaded(family)
    nothing = Conditioning(torch.zeros(1, 77, 2))
    captions = Captions({"one": "a cat", "two": "a cat"}, {"one": nothing, "two": nothing}, nothing)
    assert apply_wording(base, captions, PLAIN, "owl", 0, tmp_path / "texts") == captions
    assert not (tmp_path / "texts").exists()
    found = apply_wording(base, captions, wording, "owl", clip_skip, tmp_path / "texts")
    assert found.texts == {"one": expected, "two": expected}
    assert len(Shards(("", tmp_path / "texts")).names) == 2  # each text is encoded once
    for made, text in ((found.conditioning["one"], expected), (found.empty, "")):
        again = encode_prompts(base, [text], clip_skip)
        assert torch.equal(made.hidden, again.hidden)
        assert (made.pooled is None) == (family == "sd1")
        assert made.pooled is None or again.pooled is None or torch.equal(made.pooled, again.pooled)


@pytest.mark.parametrize(("free", "told"), [(1000, "need 0.0 GB on this disk, and 0.0 GB are free"), (10**12, None)])
def test_texts_for_which_the_disk_has_no_room_are_refused_and_the_size_of_many_is_told(
    free: int, told: str | None, sd1: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    nothing = Conditioning(torch.zeros(1, 77, 2))
    captions = Captions({"one": "a cat", "two": "a dog"}, {"one": nothing, "two": nothing}, nothing)
    monkeypatch.setattr("etude.training.conditioning.disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr("etude.training.conditioning.LARGE", 1000)
    if told:
        with pytest.raises(TrainingError, match=f"3 encoded texts {told}.*Next: free disk space.$"):
            apply_wording(sd1, captions, "[name]: [caption]", "owl", 0, tmp_path / "texts")
        assert not list(tmp_path.iterdir())
    else:
        apply_wording(sd1, captions, "[name]: [caption]", "owl", 0, tmp_path / "texts")
        assert "encoding 3 texts once, 0.0 GB in" in capsys.readouterr().err


def test_fewer_variants_are_advised_where_there_are_some(
    sd1: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Conditioning(torch.zeros(1, 77, 2))
    captions = Captions({"one": "a cat"}, {"one": nothing}, nothing)
    varied = replace(captions, variants=(captions, Captions({"one": "cat a"}, {}, nothing)))
    monkeypatch.setattr("etude.training.conditioning.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match="or lower `tags.variants`"):
        apply_wording(sd1, varied, PLAIN, "owl", 0, tmp_path / "texts")


def test_texts_that_a_run_has_encoded_are_not_encoded_again_by_the_one_that_goes_on(
    sd1: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Conditioning(torch.zeros(1, 77, 2))
    captions = Captions({"one": "a cat"}, {"one": nothing}, nothing)

    def learned(base: Base = sd1, clip_skip: int = 1, texts: Captions = captions) -> torch.Tensor:
        return apply_wording(base, texts, PLAIN, "owl", clip_skip, tmp_path / "texts").conditioning["one"].hidden

    first = learned()
    with monkeypatch.context() as patch:
        patch.setattr("etude.training.conditioning.encode_prompts", None)
        assert torch.equal(learned(), first)
        others: tuple[dict[str, Any], ...] = (
            {"clip_skip": 2},
            {"texts": Captions({"one": "a dog"}, {}, nothing)},
            {"base": replace(sd1, reading=Text(chunks=2, rule="kohya", emphasis="none"))},
        )
        for other in others:
            with pytest.raises(TypeError, match="not callable"):
                learned(**other)
    [shard] = (tmp_path / "texts").glob("*.safetensors")
    shard.unlink()  # not written over: it is mapped
    shard.write_bytes(b"damaged")
    assert torch.equal(learned(), first)
