from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import ParamsError
from etude.diffusion.noise import target
from etude.training.batches import Images
from etude.training.denoising import NoisySamples, sample_noisy
from etude.training.report import Report
from pipelines.dream_artist import method as artist
from pipelines.dream_artist.method.guidance import parse_guidance
from tests.etude.training.test_plan import ADAMW
from tests.pipelines.learning import image_set, params_of, picture
from tests.tiny import build_tiny

METHOD = "dream_artist"


def lively(base: Base, *, positive: int = 2, negative: int = 3) -> Artifact:
    """Words of random rows, large enough to be seen."""
    source = torch.Generator().manual_seed(4)
    tensors = {}
    for side, count in (("positive", positive), ("negative", negative)):
        for part, encoder in zip(base.text_parts, base.text_encoders, strict=True):
            table = encoder.get_input_embeddings().weight
            tensors[f"{side}.{part}"] = torch.randn(count, table.shape[1], generator=source) * table.std().float()
    return Artifact(METHOD, tensors, {"name": "sks"})


def run(base: Base, scratch: Path, training: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, {"steps": 3, "checkpoint_every": 3} | (training or {}), **changes)
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    data = image_set(base)
    return artist.build(base=base, images=data["images"], captions=data["captions"], params=params, report=report)


def test_the_negative_word_is_in_every_negative_prompt_and_in_no_other(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    artifact = lively(base)
    plain, sad = picture(base, "cat"), picture(base, "cat", negative="sad")
    with artist.apply(artifact, base):
        empty, both = picture(base, "cat"), picture(base, "cat", negative="sad")
        said = {text: encode_prompts(base, [text]) for text in ("sks-neg", "sad, sks-neg")}
        assert torch.equal(empty, picture(base, "cat", negative=said["sks-neg"]))
        assert torch.equal(both, picture(base, "cat", negative=said["sad, sks-neg"]))
        assert torch.equal(picture(base, "cat", guidance=1.0), untouched := picture(base, "cat", guidance=1.0))
    assert not torch.equal(empty, plain)
    assert not torch.equal(both, sad)
    assert torch.equal(picture(base, "cat", guidance=1.0), untouched)
    assert torch.equal(picture(base, "cat"), plain)
    assert not base.extra_negative_prompts


def test_the_words_of_one_are_not_mistaken_for_each_other(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("text",))
    artifact = lively(base)
    with artist.apply(artifact, base), torch.no_grad():
        lengths = [int((encode_ids(base, text) < 0).sum()) for text in ("sks", "sks-neg", "a sks cat", "sks, sks-neg")]
    assert lengths == [2, 3, 2, 5]


def encode_ids(base: Base, text: str) -> Tensor:
    from etude.base.text import tokenise

    return tokenise(base, [text]).ids[0]


@pytest.fixture(scope="module")
def exact(tiny_base: Path) -> Base:
    return load_base(tiny_base, dtype=torch.float64)


def drawn_batch(base: Base, plan: Any) -> NoisySamples:
    torch.manual_seed(1)
    mean = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    return sample_noisy(base, mean, torch.full_like(mean, -6.0), plan)


@pytest.mark.parametrize("guidance", [3.0, "1-5:cos"])
def test_loss_and_gradients_are_those_of_the_formula(guidance: float | str, exact: Base) -> None:
    plan = params_of(METHOD, {"min_snr": 0.0}).training  # type: ignore[attr-defined]
    drawn, scale = drawn_batch(exact, plan), parse_guidance(guidance)
    mask = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    rows = {side: (torch.randn(2, 32, dtype=torch.float64) * 0.3).requires_grad_() for side in artist.SIDES}
    with artist._spoken(exact, "sks", {side: (row,) for side, row in rows.items()}):
        both = encode_prompts(exact, ["sks cat", "sks", "sks-neg cat", "sks-neg"])
        ours = artist._losses(exact, drawn, artist._guided(exact, drawn, both, scale), plan, artist._weight(mask))
        found = torch.autograd.grad(ours.mean(), list(rows.values()))

        values = []
        for i, text in enumerate(("{} cat", "{}")):  # one picture and one side of guidance at a time
            t = drawn.timesteps[i : i + 1]
            c, u = (
                exact.unet(drawn.noisy[i : i + 1], t, encode_prompts(exact, [text.format(word)]).hidden).sample
                for word in ("sks", "sks-neg")
            )
            rate = float(t) / 999
            gamma = 3.0 if guidance == 3.0 else 1 + 4 * float(torch.cos(torch.tensor((rate - 1) * torch.pi / 2)))
            grey = mask[i] * 255
            weight = torch.where(grey <= 127, grey / 127, (grey - 127) / 128 * 4 + 1)
            values.append((weight * ((1 - gamma) * u + gamma * c - drawn.noise[i : i + 1]) ** 2).mean())
        theirs = torch.stack(values)
        expected = torch.autograd.grad(theirs.mean(), list(rows.values()))
    assert torch.allclose(ours.double(), theirs, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_perfect_answer_is_no_distance_from_the_picture(family: str, exact: Base, tmp_path: Path) -> None:
    base = exact if family == "sd1" else load_base(build_tiny(tmp_path / "tiny", family), dtype=torch.float64)
    drawn = drawn_batch(base, params_of(METHOD).training)  # type: ignore[attr-defined]
    answer = target(base, drawn.latents, drawn.noise, drawn.timesteps)
    mean = drawn.latents / base.scaling_factor
    assert artist._distances(base, drawn, answer, mean).abs().max() < 1e-6
    wrong = (answer + 0.3).requires_grad_()
    distances = artist._distances(base, drawn, wrong, mean)
    assert distances.min() > 1e-4
    distances.sum().backward()
    assert wrong.grad is not None
    assert wrong.grad.abs().min() > 0  # through the decoder to every place


def test_the_weight_of_a_mask_is_the_one_that_the_authors_tell() -> None:
    grey = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert artist._weight(grey).tolist() == pytest.approx([0, 0.5, 1, 3, 5], abs=0.02)
    assert float(artist._weight(torch.tensor(127 / 255))) == pytest.approx(1, abs=1e-6)


def test_one_picture_is_enough_and_a_mask_on_it_counts(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    whole = image_set(base)["images"]
    half = torch.cat([torch.zeros(4, 8), torch.ones(4, 8)])
    results = {}
    for name, masks, asked in (("none", (), True), ("half", (half,), True), ("unused", (half,), False)):
        one = Images(whole.names[:1], whole.mean[:1], whole.logvar[:1], masks)
        params: Any = params_of(METHOD, {"steps": 3}, attention=asked, reads="prepared", templates=["[name]"])
        report = Report(tmp_path / name, seed=3, device="cpu", precision="fp32")
        results[name] = artist.build(base=base, images=one, captions=None, params=params, report=report).tensors
    for key in results["none"]:
        assert torch.equal(results["none"][key], results["unused"][key])
        assert not torch.equal(results["none"][key], results["half"][key])


def test_both_words_are_learned_each_at_its_rate_and_nothing_else(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    blocks = {
        "positive": {"vectors": 2, "initializer": "cat", "noise": 0.0},
        "negative": {"vectors": 3, "initializer": "dog", "noise": 0.5},
    }
    artifact = run(base, tmp_path / "a", {"optimizer": ADAMW | {"weight_decay": 0.0}}, **blocks)
    assert {name: tuple(row.shape) for name, row in artifact.tensors.items()} == {
        "positive.text_encoder": (2, 32),
        "negative.text_encoder": (3, 32),
    }
    params: Any = params_of(METHOD, **blocks)
    starts = artist._starts(base, params, 3)
    table = base.text_encoders[0].get_input_embeddings().weight
    cat, dog = base.tokenizers[0]("cat dog", add_special_tokens=False)["input_ids"]
    assert torch.equal(starts["positive"][0], table[[cat, cat]])
    assert float((starts["negative"][0] - table[[dog] * 3]).detach().std()) == pytest.approx(0.5, rel=0.3)
    slow = run(base, tmp_path / "b", {"optimizer": ADAMW | {"weight_decay": 0.0}}, negative_rate=0.01, **blocks)
    moved = {
        name: {side: (a.tensors[f"{side}.text_encoder"] - starts[side][0]).abs().max() for side in artist.SIDES}
        for name, a in (("usual", artifact), ("slow", slow))
    }
    assert moved["usual"]["positive"] > 0
    assert 0 < moved["slow"]["negative"] < 0.05 * moved["usual"]["negative"]


@pytest.mark.parametrize(
    "change",
    [
        {"guidance": "1-6:cos2"},
        {"reconstruction": 1.0},
        {"templates": ["[name] on a red background"], "reads": "prepared"},
    ],
    ids=str,
)
def test_every_dial_changes_what_is_learned(change: dict[str, Any], tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    one, two = run(base, tmp_path / "a"), run(base, tmp_path / "b", **change)
    assert any(not torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_sdxl_learns_rows_for_both_of_its_encoders(tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", "sdxl"))
    artifact = run(base, tmp_path / "scratch", {"steps": 2, "checkpoint_every": 2})
    assert {name: row.shape[1] for name, row in artifact.tensors.items()} == {
        "positive.text_encoder": 32,
        "positive.text_encoder_2": 48,
        "negative.text_encoder": 32,
        "negative.text_encoder_2": 48,
    }
    untouched = picture(base, "otter")
    with artist.apply(artifact, base):
        assert not torch.equal(picture(base, "otter"), untouched)


def test_sd2_learns_through_v(tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", "sd2"))
    artifact = run(base, tmp_path / "scratch", {"steps": 2, "checkpoint_every": 2}, reconstruction=0.5)
    untouched = picture(base, "otter")
    with artist.apply(artifact, base):
        assert not torch.equal(picture(base, "otter"), untouched)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"guidance": "3-"}, "`guidance` is `3-`"),
        ({"guidance": "1-2:os"}, "`os` is not allowed"),
        ({"templates": ["a photo"]}, "`templates"),
        ({"negative": {"vectors": 0, "initializer": "", "noise": 0.0}}, r"`negative\.vectors"),
        ({"negative_rate": 0.0}, "`negative_rate"),
    ],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_of(METHOD, **change)
