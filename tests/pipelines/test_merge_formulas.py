"""Every formula of the merge against one written out anew in float64, and at its limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from etude.core.errors import FormatError
from etude.core.tensors import read_tensors
from pipelines.model_merge.method.merging import formulas, pieces, sorting
from pipelines.model_merge.method.merging.blocks import COUNT, PRESETS, block_of
from pipelines.model_merge.method.merging.engine import Merge
from pipelines.model_merge.method.merging.formula_names import MANY, FormulaName, domain_fault, takes
from pipelines.model_merge.method.merging.formulas import FORMULAS
from pipelines.model_merge.method.settings import Weight

NAME = "unet.mid_block.attentions.0.proj_in.weight"
SHAPE = (12, 7)


def models(count: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Float32 values (thresholds are found among those), in float64."""
    source = torch.Generator().manual_seed(seed)
    base = torch.randn(SHAPE, generator=source)
    return [(base + 0.1 * torch.randn(SHAPE, generator=source)).to(dtype) for _ in range(count)]


def merged(formula: str, tensors: list[Tensor], α: float = 0.3, β: float = 0.4, **changes: Any) -> Tensor:
    asked: dict[str, Any] = {"density": 0.5, "weights": (1.0,) * (len(tensors) - 1), "clip": False, "seed": 3}
    asked |= {"dtype": torch.float64, "alpha": Weight(unet=α, rest=0.0), "beta": Weight(unet=β, rest=0.0)}
    return Merge(models=[{NAME: t} for t in tensors], formula=formula, **(asked | changes)).tensor(NAME)


def lerp(a: Any, b: Any, α: float) -> Any:
    return (1 - α) * a + α * b


def ranks(x: Tensor) -> list[int]:
    flat = x.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda i: flat[i])
    return [order.index(i) for i in range(len(flat))]


def written_out(formula: str, x: list[Tensor], α: float, β: float, d: float) -> Tensor:
    """The formulas as methods are told, value by value where they are."""
    a, b, c = (x * 3)[:3]
    n = a.numel()
    if formula == "none":
        return a
    if formula == "slerp":
        θ = math.acos(float((a * b).sum() / (a.norm() * b.norm())))
        return (math.sin((1 - α) * θ) * a + math.sin(α * θ) * b) / math.sin(θ)
    if formula == "tensor_sum":
        rows = [b[i] if int(12 * β) <= i < int(12 * (α + β)) else a[i] for i in range(12)]
        return torch.stack(rows)
    if formula == "top_k_tensor_sum":
        values, sizes, place = sorted(a.flatten().tolist()), sorted(a.abs().flatten().tolist()), ranks(b)
        low, high = sizes[round(β * n) - 1], sizes[round((α + β) * n) - 1]
        pairs = zip(place, a.flatten().tolist(), strict=True)
        moved = [values[r] if low < abs(values[r]) <= high else old for r, old in pairs]
        return torch.tensor(moved, dtype=a.dtype).view(SHAPE)
    if formula == "distribution_crossover":
        order = np.argsort(c.flatten().numpy(), kind="stable")
        low, high = (np.fft.rfft(m.flatten().numpy()[order]) for m in (a, b))
        f = np.clip((np.arange(len(low)) / len(low) - α) / β + 0.5, 0, 1)
        result = np.empty(n)
        result[order] = np.fft.irfft((1 - f) * low + f * high, n)
        return torch.from_numpy(result).view(SHAPE)
    if formula == "euclidean_add_difference":
        da, db = (a - c) / (a - c).norm(), (b - c) / (b - c).norm()
        s = lerp(a, b, α) - c
        distance = ((1 - α) * da**2 + α * db**2).sqrt() * s.sign()
        return c + distance / distance.norm() * s.norm()
    if formula == "ties_add_difference":
        return by_value(x, lambda kept: majority_mean(kept, tie=0), max(int((1 - β) * n), 1), α)
    base = x[-1]
    if formula == "task_arithmetic":
        return base + α * sum(m - base for m in x[:-1])
    if formula == "ties":
        return by_value(x, lambda kept: majority_mean(kept, tie=1), n - int(d * n) + 1, α)
    return {
        "weighted_sum": lambda: lerp(a, b, α),
        "sigmoid": lambda: lerp(a, b, 3 * α**2 - 2 * α**3),
        "inverse_sigmoid": lambda: lerp(a, b, 0.5 - math.sin(math.asin(1 - 2 * α) / 3)),
        "weighted_subtraction": lambda: (a - α * β * b) / (1 - α * β),
        "add_difference": lambda: a + α * (b - c),
        "train_difference": lambda: (
            a + 1.8 * α * (b - c).sign() * ((b - a).abs() / ((b - c).abs() + (b - a).abs())) * (b - c).abs()
        ),
        "sum_twice": lambda: lerp(lerp(a, b, α), c, β),
        "triple_sum": lambda: (1 - α - β) * a + α * b + β * c,
        "multiply_difference": lambda: (
            c + (lerp(a, b, β) - c).sign() * ((1 - α) * (a - c).abs().log() + α * (b - c).abs().log()).exp()
        ),
        "similarity_add_difference": lambda: lerp(
            a + α * (b - c), lerp(a, b, α / 2), (a * b / torch.maximum(a.abs(), b.abs()) ** 2 + 1) / 2 * β
        ),
    }[formula]()


def by_value(x: list[Tensor], mean: Any, k: int, α: float) -> Tensor:
    """base + α · mean of what is left of every difference when all below its k-th size are dropped."""
    vectors = [(m - x[-1]).flatten().tolist() for m in x[:-1]]
    limits = [np.float32(sorted(abs(v) for v in vector)[k - 1]) for vector in vectors]
    pairs = zip(vectors, limits, strict=True)
    kept = [[v if np.float32(abs(v)) >= limit else 0.0 for v in vector] for vector, limit in pairs]
    return x[-1] + α * torch.tensor([mean(column) for column in zip(*kept, strict=True)], dtype=x[-1].dtype).view(SHAPE)


def majority_mean(values: Any, tie: int) -> float:
    """``tie`` 1: sign of the sum, 0 counts as positive, zeros have none; 0: sign of the sum of signs, as sd-meh."""
    if tie:
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [v for v in values if v * sign > 0]
    else:
        total = sum(np.sign(v) for v in values)
        agreeing = [v for v in values if np.sign(v) == np.sign(total)]
    return sum(agreeing) / len(agreeing) if agreeing else 0.0


DETERMINED = sorted(set(FORMULAS) - {"dare_linear", "dare_ties"})


@pytest.mark.parametrize("formula", DETERMINED)
def test_a_formula_is_what_it_says(formula: str) -> None:
    x = models(FORMULAS[formula].models or 3)
    expected = written_out(formula, x, 0.3, 0.4, 0.5)
    torch.testing.assert_close(merged(formula, x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("formula", sorted(FORMULAS))
def test_a_formula_does_not_depend_on_the_size_of_pieces(formula: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = models(FORMULAS[formula].models or 3)
    if FORMULAS[formula].random:
        pytest.skip("each piece has a random source of its own")
    whole = merged(formula, x)
    monkeypatch.setattr(pieces.Pieces.__init__, "__defaults__", (5,))
    torch.testing.assert_close(merged(formula, x), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("formula", ["weighted_sum", "sigmoid", "inverse_sigmoid", "slerp"])
def test_between_two_models_the_ends_are_the_models_to_the_last_bit(formula: str) -> None:
    a, b = models(2, dtype=torch.float32)
    a[0, 0], b[0, 1] = -0.0, -0.0
    for α, end in ((0.0, a), (1.0, b)):
        found = merged(formula, [a, b], α, dtype=torch.float32)
        assert found.view(torch.int32).equal(end.view(torch.int32)) or formula == "inverse_sigmoid"
        assert (found - end).abs().max() < 1e-6


@pytest.mark.parametrize("formula", ["add_difference", "train_difference"])
def test_a_difference_of_nothing_adds_nothing(formula: str) -> None:
    a, b, _ = models()
    assert merged(formula, [a, b, b.clone()], 0.7).equal(a)
    assert merged(formula, [a, b, models(seed=2)[0]], 0.0).equal(a)


def test_ends_of_the_other_formulas() -> None:
    a, b, c = models()
    assert merged("tensor_sum", [a, b], 0.0, 0.3).equal(a)
    assert merged("tensor_sum", [a, b], 1.0, 0.0).equal(b)
    assert merged("tensor_sum", [a, b], 1.0, 0.5).equal(b)
    assert merged("triple_sum", [a, b, c], 0.0, 0.0).equal(a)
    assert merged("sum_twice", [a, b, c], 0.5, 1.0).equal(c)
    assert merged("top_k_tensor_sum", [a, b], 0.0, 0.0).equal(a)
    whole = merged("top_k_tensor_sum", [a, b], 1.0, 0.0)
    assert sorted(whole.flatten().tolist()) == sorted(a.flatten().tolist())
    assert ranks(whole) == ranks(b)
    torch.testing.assert_close(merged("distribution_crossover", [a, b, c], 1.0, 0.0), a)
    torch.testing.assert_close(merged("distribution_crossover", [a, b, c], 0.0, 0.0), b)
    torch.testing.assert_close(merged("multiply_difference", [a, b, c], 0.0, 0.0), a)
    torch.testing.assert_close(merged("euclidean_add_difference", [a, a, c], 0.4), a)


@pytest.mark.parametrize("formula", MANY)
def test_one_task_vector_at_full_density_is_added_as_it_is(formula: str) -> None:
    a, base = models(2)
    found = merged(formula, [a, base], 0.8, density=1.0, weights=(1.0,))
    torch.testing.assert_close(found, base + 0.8 * (a - base), rtol=1e-12, atol=1e-12)
    assert merged(formula, [a, base], 0.0, density=1.0, weights=(1.0,)).equal(base)


def test_ties_keeps_the_largest_values_and_gives_way_to_the_majority() -> None:
    base = torch.zeros(1, 4, dtype=torch.float64)
    a = torch.tensor([[4.0, 1.0, 3.0, -0.5]], dtype=torch.float64)
    b = torch.tensor([[2.0, -3.0, -5.0, 0.25]], dtype=torch.float64)
    found = merged("ties", [a, b, base], 1.0, density=0.5, weights=(1.0, 1.0))
    assert found.tolist() == [[4.0, -3.0, -5.0, 0.0]]
    found = merged("ties", [a, b, base], 1.0, density=1.0, weights=(1.0, 1.0))
    assert found.tolist() == [[3.0, -3.0, -5.0, -0.5]]


@pytest.mark.parametrize("formula", ["dare_linear", "dare_ties"])
def test_dare_drops_by_lot_and_keeps_the_expectation(formula: str) -> None:
    base = torch.zeros(400, 400)
    a = base + 1.0
    asked: dict[str, Any] = {"weights": (1.0,), "density": 0.3}
    found = merged(formula, [a, base], 1.0, dtype=torch.float32, **asked)
    values = found.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 0.3]))
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert found.equal(merged(formula, [a, base], 1.0, dtype=torch.float32, **asked))
    assert not found.equal(merged(formula, [a, base], 1.0, dtype=torch.float32, **asked, seed=4))


@pytest.mark.parametrize("k", [1, 2, 40, 83, 84])
def test_the_kth_size_is_exact(k: int) -> None:
    (x,) = models(1, dtype=torch.float32)
    x[3] = 0.0
    x[4, :3] = x[5, 0]
    expected = x.abs().flatten().kthvalue(k).values
    for size in (5, 1000):
        assert pieces.kth_smallest(pieces.Pieces([x], size), lambda part: part[0], k) == float(expected)


def test_the_order_of_values_is_that_of_a_stable_sort() -> None:
    x = torch.tensor([0.5, -0.0, 2.0, 0.0, -1.0, 0.5, -3e38, 1e-40])
    assert sorting.order_of(x).tolist() == torch.argsort(x, stable=True).tolist()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((0.3, 0.4), (4, 7, False)),
        ((0.5, 0.8), (3, 8, True)),
        ((-0.2, 0.5), (3, 5, False)),
        ((2.0, 0.0), (0, 10, False)),
    ],
)
def test_a_region_of_sizes_goes_on_at_the_start(asked: tuple[float, float], found: tuple[int, int, bool]) -> None:
    assert sorting.region(*asked, 10) == found


def test_clipping_keeps_values_between_those_of_a_and_b() -> None:
    a, b, c = models()
    free, held = (merged("add_difference", [a, b, c], 3.0, clip=clip) for clip in (False, True))
    assert ((free > torch.maximum(a, b)) | (free < torch.minimum(a, b))).any()
    assert ((held <= torch.maximum(a, b)) & (held >= torch.minimum(a, b))).all()
    inside = (free <= torch.maximum(a, b)) & (free >= torch.minimum(a, b))
    assert free[inside].equal(held[inside])


def test_every_formula_has_a_name_in_the_schema_and_takes_what_it_says() -> None:
    assert set(get_args(FormulaName)) == set(FORMULAS)
    for name in get_args(FormulaName):
        count = FORMULAS[name].models
        assert takes(name, count or 2) == ""
        assert (name in MANY) == (count == 0)
        assert takes(name, 4 if count else 0)


def test_block_weights_reach_their_blocks_and_no_others() -> None:
    by_block = Weight(unet=[i / 100 for i in range(COUNT)], rest=0.77)
    names = {
        "unet.conv_in.weight": 0.0,
        "unet.time_embedding.linear_1.weight": 0.0,
        "unet.down_blocks.0.resnets.0.conv1.weight": 0.01,
        "unet.down_blocks.0.attentions.1.proj_in.weight": 0.02,
        "unet.down_blocks.0.downsamplers.0.conv.weight": 0.03,
        "unet.down_blocks.3.resnets.1.conv2.bias": 0.11,
        "unet.mid_block.attentions.0.norm.weight": 0.12,
        "unet.up_blocks.0.resnets.0.conv1.weight": 0.13,
        "unet.up_blocks.0.upsamplers.0.conv.weight": 0.15,
        "unet.up_blocks.3.attentions.2.proj_out.weight": 0.24,
        "unet.conv_norm_out.weight": 0.24,
        "unet.conv_out.bias": 0.24,
        "unet.add_embedding.linear_1.weight": 0.77,
        "text_encoder.embeddings.token_embedding.weight": 0.77,
        "vae.encoder.conv_in.weight": 0.77,
    }
    a, b = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    asked: dict[str, Any] = {"density": 1.0, "weights": (), "clip": False, "seed": 0, "dtype": torch.float64}
    for name, expected in names.items():
        merge = Merge(models=[{name: a}, {name: b}], formula="weighted_sum", alpha=by_block, beta=by_block, **asked)
        assert merge.tensor(name)[0, 0] == expected, name


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_blocks_are_counted_as_ldm_names_count_them(family: str, tmp_path: Path) -> None:
    """bbc-mc's rule: `time_embed` 0, `.out.` 24, input_blocks.i i, middle_block 12, output_blocks.i 13 + i."""
    from etude.core.ldm_names import translate, unet_table
    from tests.tiny import build_tiny

    unet = build_tiny(tmp_path, family) / "unet/diffusion_pytorch_model.safetensors"
    names = list(read_tensors(unet)[0])
    table = unet_table(names)
    for name in names:
        head, number, *_ = f"{translate(name, table)}.".split(".")
        rules = {"time_embed": 0, "out": 24, "middle_block": 12, "label_emb": None}
        offset = {"input_blocks": 0, "output_blocks": 13}
        expected = offset[head] + int(number) if head in offset else rules[head]
        assert block_of(f"unet.{name}") == expected, name


def test_presets_are_those_of_the_published_table() -> None:
    """Some values of s1dlx/meh's presets.py, at the first blocks, in the middle and at the end."""
    assert len(PRESETS) == 38
    assert all(len(values) == COUNT for values in PRESETS.values())
    table = {
        "GRAD_V": {1: 0.9166666667, 12: 0, 24: 1},
        "GRAD_A": {1: 0.0833333333, 12: 1, 24: 0},
        "3SMOOTHSTEP": {9: 0.94921875, 13: 0.312934027777778},
        "4R_SMOOTHSTEP": {7: 0.177662037037037, 12: 1},
        "HALF_SMOOTHSTEP": {1: 0.0196759259259259, 12: 1, 24: 0},
        "ONE_THIRD_SMOOTHSTEP": {8: 1, 16: 0, 24: 1},
        "ONE_FOURTH_R_SMOOTHSTEP": {6: 0, 12: 1},
        "REVERSE_COSINE": {1: 0.00427756931309475, 24: 1},
        "TRUE_CUBIC_HERMITE": {0: 0, 1: 0.199031876929012, 16: 0.442901234567901, 24: 1},
        "FAKE_REVERSE_CUBIC_HERMITE": {0: 1, 1: 0.842423804012346, 12: 0.5, 24: 0},
        "WRAP12": {5: 1, 6: 0, 18: 0, 19: 1},
        "RING08_SOFT": {4: 0, 5: 0.5, 6: 1, 9: 0.5, 15: 0.5, 18: 1, 19: 0.5},
        "OUT12_5": {11: 0, 12: 0.5, 13: 1},
    }
    for name, values in table.items():
        for place, value in values.items():
            assert PRESETS[name][place] == pytest.approx(value, abs=1e-9), (name, place)


def test_the_formulas_stand_in_float32_for_half_precision_models() -> None:
    a, b = (t.half() for t in models(2, dtype=torch.float32))
    found = merged("weighted_sum", [a, b], 0.5, dtype=torch.float16)
    assert found.dtype == torch.float16
    assert found.equal(((a.float() + b.float()) / 2).half())
    assert formulas.weighted_sum([a, b], formulas.Numbers(1.0, 0.0)).equal(b)


@pytest.mark.parametrize(
    ("formula", "α", "β", "says"),
    [
        ("inverse_sigmoid", 1.5, 0.0, "`alpha` from 0 to 1, not 1.5"),
        ("inverse_sigmoid", -0.1, 0.0, "`alpha` from 0 to 1, not -0.1"),
        ("weighted_subtraction", 1.0, 1.0, "which is 0 where alpha is 1 and beta 1"),
        ("weighted_subtraction", -4.0, -0.25, "which is 0 where alpha is -4 and beta -0.25"),
        ("weighted_subtraction", 0.5, 2.0, "which is 0"),
        ("tensor_sum", 1.2, 0.0, "`alpha` from 0 to 1"),
        ("tensor_sum", 0.5, -0.5, "`beta` from 0 to 1"),
        ("top_k_tensor_sum", 3.0, 0.0, "`alpha` from -1 to 1"),
        ("euclidean_add_difference", 1.5, 0.0, "`alpha` from 0 to 1"),
        ("multiply_difference", 1.01, 0.0, "`alpha` from 0 to 1"),
        ("distribution_crossover", 0.5, -0.1, "`beta` from 0 to 1"),
        ("ties_add_difference", 0.5, 1.5, "`beta` from 0 to 1"),
    ],
)
def test_numbers_outside_the_domain_of_a_formula_are_refused(formula: Any, α: float, β: float, says: str) -> None:
    assert says in domain_fault(formula, [0.5, α], [0.0, β], [])
    assert domain_fault(formula, [0.5, 0.5], [0.0, 0.5], []) == ""


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.3, 1.0, -1.3], [2.0, 0.0, -2.0]])
def test_ties_refuses_weights_of_which_some_cancel_each_other(weights: list[float]) -> None:
    assert "is 0 for some" in domain_fault("ties", [1.0], [1.0], weights)
    assert domain_fault("dare_ties", [1.0], [1.0], weights) == ""
    assert domain_fault("ties", [1.0], [1.0], [1.0, 0.0, -0.4]) == ""


@pytest.mark.parametrize("formula", get_args(FormulaName))
def test_a_formula_that_takes_its_numbers_gives_finite_values(formula: FormulaName) -> None:
    same = models(1)[0]
    zero = torch.zeros(SHAPE)
    few = FORMULAS[formula].models or 3
    for given in (models(few), [same] * few, [zero] * few, [same, zero, zero][:few], [zero, same, same][:few]):
        for α in (-2.0, 0.0, 0.5, 1.0, 3.0):
            for β in (-2.0, 0.0, 0.5, 1.0, 3.0):
                if not domain_fault(formula, [α], [β], [1.0] * (few - 1)):
                    assert merged(formula, given, α, β).isfinite().all(), (α, β)


def test_merged_values_that_the_saved_precision_cannot_hold_are_refused_by_their_weight() -> None:
    large = [torch.full(SHAPE, 60000.0), torch.full(SHAPE, -60000.0)]
    with pytest.raises(FormatError, match=rf"`save: fp16` cannot hold `{NAME}`: its largest number is 180000,"):
        merged("weighted_sum", large, -1.0, dtype=torch.float16)
    assert merged("weighted_sum", large, -1.0, dtype=torch.float32).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_merged_values_that_no_precision_can_hold_are_the_formulas_fault(dtype: torch.dtype) -> None:
    large = [torch.full(SHAPE, 3e38), torch.full(SHAPE, -3e38)]
    match = rf"{NAME}: has merged values that are not finite .* Next: choose smaller numbers for the formula\.$"
    with pytest.raises(FormatError, match=match):
        merged("weighted_sum", large, -1.0, dtype=dtype)
