"""Tags of captions in other orders, and fewer of them: by kohya's rules, in variants that the seed alone decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.text import encode_prompts
from etude.core.errors import InputError, ParamsError
from etude.core.params import validate
from etude.training import conditioning
from etude.training.batches import Batch, Batches, Captions, Images
from etude.training.report import Report
from etude.training.tags import UNCHANGED, Tags, vary
from etude.training.templates import refuse_silent
from tests.pipelines.learning import image_set, params_of

CAPTION = "sks, 1girl, red hair,smile , outdoors"
TAGS = ["sks", "1girl", "red hair", "smile", "outdoors"]
SHUFFLED: dict[str, Any] = {"shuffle": True, "keep": 0, "separator": "", "dropout": 0.0, "variants": 4}


def tags(**changes: Any) -> Tags:
    return Tags(**SHUFFLED | changes)


def variants(chosen: Tags, caption: str = CAPTION, count: int = 200) -> list[list[str]]:
    """The tags of many variants of a caption."""
    return [chosen.variant(caption, 7, number).split(", ") for number in range(count)]


def test_the_first_tags_stay_and_each_of_the_others_comes_to_every_place() -> None:
    found = variants(tags(keep=2))
    assert all(each[:2] == TAGS[:2] and sorted(each) == sorted(TAGS) for each in found)
    assert {tuple(each[2:]) for each in found} == {
        (a, b, c) for a in TAGS[2:] for b in TAGS[2:] for c in TAGS[2:] if len({a, b, c}) == 3
    }


def test_a_share_of_the_tags_is_left_out_and_never_a_kept_one() -> None:
    found = variants(tags(shuffle=False, keep=1, dropout=0.25), count=1000)
    assert all(each == [tag for tag in TAGS if tag in each] for each in found)  # in their order
    assert all(each[0] == "sks" for each in found)
    assert sum(len(each) - 1 for each in found) / 4000 == pytest.approx(0.75, abs=0.03)


def test_tags_before_the_separator_stay_in_front_and_those_after_a_second_one_at_the_end() -> None:
    chosen = tags(separator="|||", keep=1, dropout=0.5)
    for each in variants(chosen, "sks, 1girl ||| a, , b, c ||| photo", 50):
        assert each[:2] == ["sks", "1girl"]
        assert each[-1] == "photo"
        assert set(each[2:-1]) <= {"a", "b", "c"}
    assert chosen.kept("sks, 1girl ||| a, b ||| photo") == "sks, 1girl, photo"
    assert all(each[0] == "sks" for each in variants(chosen))  # without it, `keep` counts


def test_a_variant_depends_on_seed_number_and_caption_alone() -> None:
    chosen = tags(dropout=0.3)
    assert chosen.variant(CAPTION, 7, 3) == chosen.variant(CAPTION, 7, 3)
    assert len({chosen.variant(CAPTION, seed, number) for seed in range(8) for number in range(8)}) > 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": 1}, "`variants` 1 gives each caption one form"),
        ({"shuffle": False}, "`variants` has no effect"),
        ({"shuffle": False, "keep": 1, "variants": 1}, "`keep` has no effect"),
        ({"shuffle": False, "separator": "|||", "variants": 1}, "`separator` has no effect"),
        ({"separator": " , "}, "`separator` is a comma"),
        ({"separator": " "}, "`separator` is a space, which is within tags too"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        validate(SHUFFLED | changes, Tags, "params.yaml")


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("lora", {"caption": "[name]"}, r"no training text contains a caption: write \[caption\]"),
        ("clip_inversion", {"templates": ["a [name]"]}, r"no training text contains a caption: write \[caption\]"),
        ("textual_inversion", {"templates": ["a [name]"], "reads": "prepared"}, "`reads: prepared` reads none: write"),
        ("dream_artist", {"templates": ["a [name]"], "reads": "prepared"}, "`reads: prepared` reads none: write"),
    ],
)
def test_tags_of_captions_that_no_text_contains_or_that_are_not_read_are_refused(
    method: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsError, match=f"`tags` changes captions, but {said}"):
        params_of(method, tags=SHUFFLED, **changes)


def test_a_name_that_may_be_left_out_of_its_caption_is_refused() -> None:
    captions = {"a": "1girl, an owl"}
    refuse_silent(["[filewords]"], captions, "owl", "birds", tags(dropout=0.1, keep=2))
    refuse_silent(["[filewords]"], captions, "owl", "birds", tags())
    with pytest.raises(InputError, match=r"may lose `owl` by `tags\.dropout`"):
        refuse_silent(["[filewords]"], captions, "owl", "birds", tags(dropout=0.1, keep=1))


def test_captions_whose_tags_stay_have_no_variants() -> None:
    nothing = Conditioning(torch.zeros(1, 77, 2))
    captions = Captions({"a": CAPTION}, {"a": nothing}, nothing)
    assert vary(captions, UNCHANGED, 7) is captions


def taken(base: Base, folder: Path, rate: float) -> list[tuple[Batch, Conditioning]]:
    """The batches of a LoRA with shuffled tags, and their encodings."""
    data = image_set(base)
    texts = {name: f"{name}, {CAPTION}" for name in data["images"].names}
    captions = Captions(texts, {}, data["captions"].empty)
    changes: dict[str, Any] = {"tags": SHUFFLED, "caption": "[name], [filewords]", "text_encoder_rate": rate}
    report = Report(folder, seed=3, device="cpu", precision="fp32")
    batches, learned, read = conditioning.captioned(
        base, data["images"], captions, params_of("lora", **changes), report
    )
    assert learned.texts == {name: f"otter, {text}" for name, text in texts.items()}
    with torch.no_grad():
        return [(batch, read(batch)) for batch in map(batches, range(12))]


def test_batches_take_the_variants_at_random_and_a_trained_text_encoder_reads_the_same(
    sd1: Base, tmp_path: Path
) -> None:
    cached, live = taken(sd1, tmp_path / "cached", 0.0), taken(sd1, tmp_path / "live", 0.5)
    seen = {text for batch, _ in cached for text in batch.texts}
    assert all(text.startswith("otter, ") for text in seen)
    assert 6 < len(seen) <= 12  # three captions with four variants
    for (batch, found), (other, again) in zip(cached, live, strict=True):
        assert batch.texts == other.texts
        alone = torch.cat([encode_prompts(sd1, [text]).hidden for text in batch.texts])
        assert torch.equal(found.hidden, alone)
        torch.testing.assert_close(again.hidden, alone, rtol=0, atol=1e-6)


def test_a_picture_that_is_twice_in_a_batch_can_have_two_variants_and_a_batch_is_always_the_same() -> None:
    latents = torch.zeros(4, 8, 8)
    nothing = Conditioning(torch.zeros(1, 77, 2))
    captions = vary(Captions({"a": CAPTION}, {}, nothing), tags(variants=16), 3)

    def texts() -> list[tuple[str, ...]]:
        one = Batches(Images(("a",), (latents,), (latents,)), captions, batch_size=2, seed=3, encoded=False)
        return [one(index).texts for index in range(20)]

    assert any(first != second for first, second in texts())
    assert texts() == texts()
