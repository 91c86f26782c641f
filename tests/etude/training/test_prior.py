"""Prior preservation against the formula written out, value and gradient, for ε- and v-prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.diffusion.noise import size_ids
from etude.training.batches import Batch, Batches, Images
from etude.training.plan import Optimization
from etude.training.prior import Pair, pairs, preserving_loss, with_class
from tests.etude.training.test_plan import BLOCK
from tests.pipelines.learning import class_images
from tests.tiny import build_tiny

NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = build_tiny(tmp_path_factory.mktemp("tiny"), request.param)
    return load_base(folder, dtype=torch.float64, parts=("unet", "text"))


def batch(count: int, side: int, seed: int) -> Batch:
    mean = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(tuple(map(str, range(count))), mean, torch.full_like(mean, -3.0))


def loss(base: Base, pair: Pair, weight: float, cells: Tensor | None = None, **changes: float) -> Tensor:
    torch.manual_seed(1)
    texts = ["otter"] * len(pair.own.names) + ["bear"] * (len(pair.prior.names) if pair.prior else 0)
    plan = Optimization(**{**BLOCK, **changes})
    seen = Pair(replace(pair.own, cells=cells), pair.prior)
    return preserving_loss(base, seen, encode_prompts(base, texts), plan, weight)


def expected(base: Base, pair: Pair, weight: float, mask: Tensor, γ: float) -> Tensor:
    """L = mean_i w(t_i) · Σ m (ŷ - y)² / Σ m over own samples + λ · mean_j w(t_j) · mean (ŷ - y)² over the class's."""
    assert pair.prior
    torch.manual_seed(1)
    mean = torch.cat([pair.own.mean, pair.prior.mean])
    z = (mean + torch.exp(torch.tensor(-1.5, dtype=torch.float64)) * torch.randn_like(mean)) * base.scaling_factor
    ε, t = torch.randn_like(z), torch.randint(1000, (len(z),))
    ᾱ = base.alphas_cumprod.double()[t]  # those of the papers: see test_denoising
    a, b = ᾱ.sqrt().reshape(-1, 1, 1, 1), (1 - ᾱ).sqrt().reshape(-1, 1, 1, 1)
    n = len(pair.own.names)
    text = encode_prompts(base, ["otter"] * n + ["bear"] * (len(z) - n)).hidden
    goal = ε if base.prediction == "epsilon" else a * ε - b * z
    squares = (base.unet(a * z + b * ε, t, encoder_hidden_states=text).sample - goal) ** 2
    snr = ᾱ / (1 - ᾱ)
    w = snr.clamp(max=γ) / (snr if base.prediction == "epsilon" else snr + 1) if γ else torch.ones_like(snr)
    total: Tensor = squares.new_zeros(())
    for i in range(n):
        total = total + w[i] * (squares[i] * mask[i]).sum() / mask[i].expand(4, -1, -1).sum() / n
    for j in range(n, len(z)):
        total = total + weight * w[j] * squares[j].mean() / (len(z) - n)
    return total


@pytest.mark.parametrize(("weight", "γ"), [(1.0, 0.0), (0.3, 5.0)])
def test_value_and_gradient_are_those_of_the_formula_each_sample_by_its_own_timestep(
    base: Base, weight: float, γ: float
) -> None:
    pair = Pair(batch(2, 8, 0), batch(3, 8, 1))
    mask = torch.ones(2, 1, 8, 8, dtype=torch.float64)
    mask[0, :, :3], mask[1, :, :, 5:] = 0, 0
    parameter = base.unet.get_parameter(NAME).requires_grad_(True)
    try:
        values, gradients = [], []
        for value in (loss(base, pair, weight, mask, min_snr=γ), expected(base, pair, weight, mask, γ)):
            values.append(value.item())
            gradients.append(torch.autograd.grad(value, parameter)[0])
    finally:
        parameter.requires_grad_(False)
    assert values[0] == pytest.approx(values[1], rel=1e-6)  # the signal-to-noise ratio is kept in float32
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-10)


def test_a_mask_of_ones_changes_nothing_and_no_prior_leaves_the_own_loss(base: Base) -> None:
    own, prior = batch(2, 8, 0), batch(2, 8, 1)
    ones = torch.ones(2, 1, 8, 8, dtype=torch.float64)
    assert float(loss(base, Pair(own, prior), 1.0, ones)) == pytest.approx(float(loss(base, Pair(own, prior), 1.0)))
    assert float(loss(base, Pair(own, None), 1.0)) == pytest.approx(float(loss(base, Pair(own, None), 7.0)))
    first = float(loss(base, Pair(own, prior), 0.0))
    second = float(loss(base, Pair(own, prior), 1.0)) - first
    assert float(loss(base, Pair(own, prior), 2.0)) == pytest.approx(first + 2 * second, rel=1e-4)


@pytest.mark.parametrize("side", [8, 16])  # of own pictures; class images have 8
def test_the_weights_of_cells_are_those_of_own_pictures_alone(base: Base, side: int) -> None:
    pair = Pair(batch(2, side, 0), batch(2, 8, 1))
    text, plan = encode_prompts(base, ["otter"] * 2 + ["bear"] * 2), Optimization(**BLOCK)
    found = []
    for weights in (None, torch.zeros(2, 1, side, side, dtype=torch.float64)):
        torch.manual_seed(1)
        found.append(float(preserving_loss(base, pair, text, plan, 1.0, weights)))
    assert found[1] == pytest.approx(found[0] - float(loss(base, pair, 0.0)))


@pytest.mark.parametrize("side", [8, 16])
def test_sdxl_is_told_the_sizes_of_own_pictures_and_those_that_class_images_have(tmp_path: Path, side: int) -> None:
    base = load_base(build_tiny(tmp_path, "sdxl"), dtype=torch.float64, parts=("unet", "text"))
    own, prior = batch(2, side, 0), batch(2, 8, 1)
    text, plan = encode_prompts(base, ["otter"] * 2 + ["bear"] * 2), Optimization(**BLOCK)

    def value(sizes: Tensor | None, weight: float, pair: Pair) -> float:
        torch.manual_seed(1)
        return float(preserving_loss(base, Pair(replace(pair.own, sizes=sizes), pair.prior), text, plan, weight))

    same, others = size_ids(base, own.mean).float(), torch.tensor([[900.0, 700, 0, 30, 64, 64]] * 2)
    both = Pair(own, prior)
    assert value(same, 1.0, both) == value(None, 1.0, both)
    assert value(others, 0.0, both) != value(None, 0.0, both)
    kept = [value(sizes, 1.0, both) - value(sizes, 0.0, both) for sizes in (None, others)]
    assert kept[0] == pytest.approx(kept[1])  # the term of the class


def test_pictures_of_another_size_than_the_class_are_learned_beside_it(base: Base) -> None:
    wide, prior = batch(2, 16, 0), batch(2, 8, 1)
    value = float(loss(base, Pair(wide, prior), 0.5))
    assert float(loss(base, Pair(wide, prior), 0.0)) == pytest.approx(float(loss(base, Pair(wide, None), 0.0)))
    assert value > float(loss(base, Pair(wide, prior), 0.0)) > 0


def test_texts_of_the_class_come_after_those_of_own_pictures_encoded_before_or_now(base: Base, tmp_path: Path) -> None:
    means = tuple(batch(1, 8, seed).mean[0] for seed in range(3))
    own = Batches(Images(("a", "b", "c"), means, means), None, batch_size=2, seed=3)
    pair = pairs(own, class_images(base), base, batch_size=1, clip_skip=0, folder=tmp_path)(0)
    text = encode_prompts(base, ["otter", "fox"])
    expected = encode_prompts(base, ["otter", "fox", "bear"]).hidden
    for live in (False, True):
        found = with_class(base, text, pair, 0, live=live).hidden
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert with_class(base, text, Pair(pair.own, None), 0, live=False) is text


def test_a_pair_is_a_function_of_its_number_and_names_both_halves(base: Base, tmp_path: Path) -> None:
    means = tuple(batch(1, 8, seed).mean[0] for seed in range(3))
    own = Batches(Images(("a", "b", "c"), means, means), None, batch_size=2, seed=3)
    made = pairs(own, class_images(base), base, batch_size=3, clip_skip=0, folder=tmp_path)
    order = [made(i).names for i in range(8)]
    assert [made(i).names for i in reversed(range(8))] == order[::-1]
    assert all(len(names) == 5 and sum(name.startswith("drawn/") for name in names) == 3 for names in order)
    assert {name for names in order for name in names if name.startswith("drawn/")} == set(
        class_images(base).images.names
    )
    assert pairs(own, class_images(base), base, batch_size=0, clip_skip=0, folder=tmp_path)(0).prior is None
