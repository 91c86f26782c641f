"""Changes of weights by factors, against sums that are written out, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.core.errors import BaseError, FormatError
from etude.core.factors import by_layer, rank_of
from etude.diffusion.factors import added, bias_change, change

LINEAR, CONV = (8, 12), (8, 12, 3, 3)
SOURCE = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=SOURCE, dtype=torch.float64)


def loha(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.einsum("or,ri->oi", a, b) * torch.einsum("or,ri->oi", c, d)


def kronecker(one: Tensor, other: Tensor) -> Tensor:
    """Entry (a·c, b·d) is one[a, b] · other[c, d]."""
    product = torch.einsum("ab,cd...->acbd...", one, other)
    return product.reshape(one.shape[0] * other.shape[0], one.shape[1] * other.shape[1], *other.shape[2:])


def core(t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("rskl,ro,si->oikl", t, left, right)


def hada(*shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"hada_{n}": random(*s) for n, s in zip(("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"), shapes, strict=False)}


def lokr(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"lokr_{name}": random(*shape) for name, shape in shapes.items()}


def test_loha_is_the_product_of_two_products() -> None:
    f = hada((8, 2), (2, 12), (8, 2), (2, 12))
    expected = 3 / 2 * loha(*f.values())
    assert torch.allclose(change("x", f, 3.0, random(*LINEAR)), expected, atol=1e-12)
    flat = hada((8, 2), (2, 108), (8, 2), (2, 108))
    assert torch.allclose(change("x", flat, 3.0, random(*CONV)), 3 / 2 * loha(*flat.values()).view(CONV), atol=1e-12)
    cores = hada((2, 8), (2, 12), (2, 8), (2, 12), (2, 2, 3, 3), (2, 2, 3, 3))
    a, b, c, d, t1, t2 = cores.values()
    assert torch.allclose(change("x", cores, 3.0, random(*CONV)), 3 / 2 * core(t1, a, b) * core(t2, c, d), atol=1e-12)


def test_lokr_is_a_product_of_kronecker_and_has_a_scale_where_it_has_a_rank() -> None:
    whole = lokr(w1=(2, 3), w2=(4, 4))
    expected = kronecker(*whole.values())
    assert torch.allclose(change("x", whole, 3.0, random(*LINEAR)), expected, atol=1e-12)
    assert rank_of(whole) is None
    low = lokr(w1=(2, 3), w2_a=(4, 2), w2_b=(2, 4))
    expected = 3 / 2 * kronecker(low["lokr_w1"], low["lokr_w2_a"] @ low["lokr_w2_b"])
    assert torch.allclose(change("x", low, 3.0, random(*LINEAR)), expected, atol=1e-12)
    deep = lokr(w1_a=(2, 2), w1_b=(2, 3), w2=(4, 4, 3, 3))
    expected = 3 / 2 * kronecker(deep["lokr_w1_a"] @ deep["lokr_w1_b"], deep["lokr_w2"])
    assert torch.allclose(change("x", deep, 3.0, random(*CONV)), expected, atol=1e-12)
    flat = lokr(w1=(2, 3), w2_a=(4, 2), w2_b=(2, 36))
    expected = 3 / 2 * kronecker(flat["lokr_w1"], (flat["lokr_w2_a"] @ flat["lokr_w2_b"]).view(4, 4, 3, 3))
    assert torch.allclose(change("x", flat, 3.0, random(*CONV)), expected, atol=1e-12)
    cored = lokr(w1=(2, 3), t2=(2, 2, 3, 3), w2_a=(2, 4), w2_b=(2, 4))
    expected = 3 / 2 * kronecker(cored["lokr_w1"], core(cored["lokr_t2"], cored["lokr_w2_a"], cored["lokr_w2_b"]))
    assert torch.allclose(change("x", cored, 3.0, random(*CONV)), expected, atol=1e-12)


def test_a_convolution_may_have_a_core_between_two_small_ones() -> None:
    f = {
        "lora_A.weight": random(2, 12, 1, 1),
        "lora_B.weight": random(8, 2, 1, 1),
        "lora_mid.weight": random(2, 2, 3, 3),
    }
    a, b, m = (tensor.flatten(1) if tensor.shape[-1] == 1 else tensor for tensor in f.values())
    assert torch.allclose(change("x", f, 3.0, random(*CONV)), 3 / 2 * core(m, b.T, a), atol=1e-12)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("rows", [True, False])
def test_dora_gives_every_row_or_column_its_length(shape: tuple[int, ...], rows: bool) -> None:
    weight, ones = random(*shape), [1] * (len(shape) - 2)
    f = {"lora_A.weight": random(2, *shape[1:]), "lora_B.weight": random(8, 2, *ones)}
    plain = weight + change("x", f, 3.0, weight)
    m = random(*((8, 1) if rows else (1, 12)), *ones).abs()
    changed = weight + change("x", f | {"dora_scale": m}, 3.0, weight)
    lines, before = ((w if rows else w.transpose(0, 1)).flatten(1) for w in (changed, plain))
    assert torch.allclose(lines.norm(dim=1), m.flatten(), atol=1e-12)
    assert torch.allclose(torch.cosine_similarity(lines, before), torch.ones(len(lines), dtype=torch.float64))


def test_a_whole_difference_is_added_as_it_is() -> None:
    difference = random(*CONV)
    assert torch.equal(change("x", {"diff": difference}, 3.0, random(*CONV)), difference)


def test_factors_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        FormatError, match=r"the factors of `unet\.x` do not fit: hada_w1_a \[8, 2\], hada_w1_b \[3, 12\]"
    ):
        change("unet.x", hada((8, 2), (3, 12), (8, 2), (2, 12)), 1.0, random(*LINEAR))
    shapes = r"`unet\.x` has a change of shape \[8, 16\], but the base's weight has \[8, 12\]"
    with pytest.raises(FormatError, match=shapes):
        change("unet.x", {"lora_A.weight": random(2, 16), "lora_B.weight": random(8, 2)}, 1.0, random(*LINEAR))


def test_factors_are_told_by_the_ends_of_names() -> None:
    names = (
        "unet.a.to_k.lora_A.weight",
        "unet.a.to_k.lora_B.weight",
        "unet.b.lokr_w2_a",
        "unet.b.dora_scale",
        "words.0",
    )
    found = by_layer({name: random(1, 1) for name in names})
    assert {layer: sorted(factors) for layer, factors in found.items()} == {
        "unet.a.to_k": ["lora_A.weight", "lora_B.weight"],
        "unet.b": ["dora_scale", "lokr_w2_a"],
    }


@pytest.fixture(scope="module")
def precise_and_half(tiny_base: Path) -> tuple[Base, Base]:
    """A UNet in float64, and the same one in bfloat16."""
    half = load_base(tiny_base, dtype=torch.bfloat16, parts=("unet",))
    precise = load_base(tiny_base, dtype=torch.float64, parts=("unet",))
    precise.unet.load_state_dict(half.unet.state_dict())
    return precise, half


ATTENTION = "down_blocks.0.attentions.0"
LAYERS = {
    "linear": f"{ATTENTION}.transformer_blocks.0.attn1.to_q",
    "small": f"{ATTENTION}.proj_in",  # a convolution of 1 × 1
    "padded": "conv_in",
    "stride": "down_blocks.0.downsamplers.0.conv",
}
NORMS = {"group": "conv_norm_out", "layer": f"{ATTENTION}.transformer_blocks.0.norm1"}


@pytest.mark.parametrize("kind", ["pair", "dora", "diff"])
@pytest.mark.parametrize("layer", LAYERS)
def test_in_half_precision_a_change_beside_the_weight_does_what_the_changed_weight_does(
    precise_and_half: tuple[Base, Base], layer: str, kind: str
) -> None:
    name = LAYERS[layer]
    weight = precise_and_half[0].unet.get_submodule(name).weight
    ones = [1] * (weight.ndim - 2)
    f = {"lora_A.weight": random(3, *weight.shape[1:]), "lora_B.weight": random(len(weight), 3, *ones)}
    f |= {"dora_scale": weight.flatten(1).norm(dim=1).view(-1, 1, *ones)} if kind == "dora" else {}
    f = {"diff": random(*weight.shape)} if kind == "diff" else f
    tensors = {f"unet.{name}.{factor}": tensor for factor, tensor in f.items()}
    x = random(2, weight.shape[1], 8, 8) if weight.ndim == 4 else random(2, 5, weight.shape[1])
    answers = []
    for base in precise_and_half:
        before = base.unet.get_submodule(name).weight.clone()
        with torch.no_grad(), added(base, tensors, {"alpha": 2.0}, 0.7):
            answers.append(base.unet.get_submodule(name)(x.to(before)).double())
        assert torch.equal(base.unet.get_submodule(name).weight, before)
        assert not base.unet.get_submodule(name)._forward_hooks
    assert answers[0].shape == answers[1].shape
    assert (answers[0] - answers[1]).norm() < 0.02 * answers[0].norm()


@pytest.mark.parametrize("factor", ["diff", "diff_b"])
@pytest.mark.parametrize("layer", [*NORMS, "padded"])
def test_in_half_precision_norms_and_biases_change_beside_the_weight_too(
    precise_and_half: tuple[Base, Base], layer: str, factor: str
) -> None:
    name = (NORMS | LAYERS)[layer]
    precise: Any = precise_and_half[0].unet.get_submodule(name)
    delta = random(*(precise.weight if factor == "diff" else precise.bias).shape)
    channels = precise.weight.shape[-1 if layer != "padded" else 1]
    x = 3 + random(2, 6, channels) if layer == "layer" else 3 + random(2, channels, 8, 8)
    answers = []
    for base in precise_and_half:
        module = base.unet.get_submodule(name)
        with torch.no_grad():
            before = module(x.to(module.weight.dtype)).double()
            with added(base, {f"unet.{name}.{factor}": delta}, {"alpha": 2.0}, 0.7):
                answers.append(module(x.to(module.weight.dtype)).double() - before)
    assert answers[0].abs().max() > 0.5
    assert (answers[0] - answers[1]).norm() < 0.02 * answers[0].norm()


@pytest.mark.parametrize("half", [False, True])
def test_a_layer_has_its_own_alpha_where_the_facts_name_one(precise_and_half: tuple[Base, Base], half: bool) -> None:
    base, names = precise_and_half[half], [LAYERS["linear"], LAYERS["small"]]
    changes = []
    for facts in ({"alpha": 2.0}, {"alpha": 2.0, "alphas": {f"unet.{names[0]}": 6.0}}):
        source = torch.Generator().manual_seed(1)
        tensors, answers = {}, []
        for name in names:
            weight = base.unet.get_submodule(name).weight
            for factor, shape in (("A", (2, *weight.shape[1:])), ("B", (len(weight), 2, *[1] * (weight.ndim - 2)))):
                tensors[f"unet.{name}.lora_{factor}.weight"] = torch.randn(shape, generator=source)
        for name in names:
            module = base.unet.get_submodule(name)
            weight = module.weight
            x = torch.ones(1, weight.shape[1], 4, 4) if weight.ndim == 4 else torch.ones(1, 3, weight.shape[1])
            with torch.no_grad():
                before = module(x.to(weight)).double()
                with added(base, tensors, facts, 1.0):
                    answers.append(module(x.to(weight)).double() - before)
        changes.append(answers)
    (first, second), (tripled, same) = changes
    torch.testing.assert_close(tripled, 3 * first, rtol=0.05, atol=0.1)
    torch.testing.assert_close(same, second)


def test_a_row_without_a_direction_stays_zero_and_an_untouched_rotation_changes_nothing() -> None:
    f = {"lora_A.weight": random(2, 12), "lora_B.weight": torch.zeros(8, 2, dtype=torch.float64)}
    delta = change("x", f | {"dora_scale": torch.ones(8, 1, dtype=torch.float64)}, 1.0, torch.zeros(LINEAR).double())
    assert torch.equal(delta, torch.zeros(LINEAR).double())
    weight, blocks = random(*LINEAR), torch.zeros(2, 4, 4, dtype=torch.float64)
    assert torch.allclose(change("x", {"oft_blocks": blocks}, 0.5, weight), torch.zeros(LINEAR).double(), atol=1e-12)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_glora_mixes_the_inputs_of_the_weight_and_adds_a_pair(shape: tuple[int, ...]) -> None:
    weight, ones = random(*shape), [1] * (len(shape) - 2)
    f = {
        "glora_a1": random(12, 2, *ones),
        "glora_a2": random(2, 12, *ones),
        "glora_b1": random(8, 2, *ones),
        "glora_b2": random(2, *shape[1:]),
    }
    mixed = torch.einsum("oi...,ir,rj->oj...", weight, f["glora_a1"].flatten(1), f["glora_a2"].flatten(1))
    pair = torch.einsum("or,ri...->oi...", f["glora_b1"].flatten(1), f["glora_b2"])
    assert torch.allclose(change("x", f, 3.0, weight), 3 / 2 * (mixed + pair), atol=1e-12)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_ia3_scales_the_channels_of_one_side(shape: tuple[int, ...]) -> None:
    weight = random(*shape)
    outputs, inputs = random(8), random(12)
    assert torch.equal(change("x", {"ia3_out": outputs}, 1.0, weight), torch.einsum("oi...,o->oi...", weight, outputs))
    assert torch.equal(change("x", {"ia3_in": inputs}, 1.0, weight), torch.einsum("oi...,i->oi...", weight, inputs))


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_oft_turns_blocks_of_rows_and_keeps_their_lengths(shape: tuple[int, ...]) -> None:
    weight, blocks = random(*shape), random(2, 4, 4)
    turned = weight + change("x", {"oft_blocks": blocks}, 0.0, weight)
    for number, block in enumerate(blocks):
        q = block - block.T
        rotation = (torch.eye(4) + q) @ torch.linalg.inv(torch.eye(4, dtype=torch.float64) - q)
        rows = slice(4 * number, 4 * number + 4)
        assert torch.allclose(turned[rows].flatten(1), rotation.T @ weight[rows].flatten(1), atol=1e-12)
    scales = random(8)
    scaled = weight + change("x", {"oft_blocks": blocks, "oft_rescale": scales}, 0.0, weight)
    assert torch.allclose(scaled, torch.einsum("oi...,o->oi...", turned, scales), atol=1e-12)


def test_the_alpha_of_oft_bounds_how_far_it_turns() -> None:
    weight, blocks = random(*LINEAR), random(2, 4, 4)
    size = (blocks - blocks.mT).norm()
    bounded = change("x", {"oft_blocks": blocks}, 0.01, weight)
    assert torch.allclose(bounded, change("x", {"oft_blocks": blocks * (0.01 * 8 / size)}, 0.0, weight), atol=1e-12)
    assert torch.equal(
        change("x", {"oft_blocks": blocks}, 1e3, weight), change("x", {"oft_blocks": blocks}, 0.0, weight)
    )


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_boft_turns_rows_that_lie_ever_farther_apart(shape: tuple[int, ...]) -> None:
    weight, blocks = random(*shape), random(3, 4, 2, 2)
    turned = weight + change("x", {"oft_blocks": blocks}, 0.0, weight)
    whole = torch.eye(8, dtype=torch.float64)
    for stage, own in enumerate(blocks):
        q = own - own.mT
        rotations = (torch.eye(2) + q) @ torch.linalg.inv(torch.eye(2, dtype=torch.float64) - q)
        # blocks of two rows that are 1, 2 and 4 rows apart, in the order of their first rows
        stride, step = 2**stage, torch.zeros(8, 8, dtype=torch.float64)
        firsts = [row for row in range(8) if row // stride % 2 == 0]
        for rotation, first in zip(rotations, firsts, strict=True):
            rows = torch.tensor([first, first + stride])
            step[rows[:, None], rows] = rotation
        whole = step @ whole
    assert torch.allclose(turned.flatten(1), whole @ weight.flatten(1), atol=1e-12)


def test_a_whole_difference_of_a_norm_has_one_axis() -> None:
    difference = random(8)
    assert torch.equal(change("x", {"diff": difference}, 1.0, random(8)), difference)


def test_lengths_of_neither_axis_are_refused() -> None:
    f = {"lora_A.weight": random(2, 12), "lora_B.weight": random(8, 2)}
    for shape in ((12,), (12, 1), (1, 8), (4, 2)):
        with pytest.raises(FormatError, match=r"`unet\.x` has a dora_scale of shape .* weight has \[8, 12\]"):
            change("unet.x", f | {"dora_scale": random(*shape)}, 1.0, random(*LINEAR))


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_a_vector_of_lengths_is_of_rows_on_square_layers_too(shape: tuple[int, ...]) -> None:
    weight, lengths = random(8, 8), random(8).abs()
    f = {"lora_A.weight": random(2, 8), "lora_B.weight": random(8, 2), "dora_scale": lengths.reshape(shape)}
    assert torch.allclose((weight + change("x", f, 1.0, weight)).norm(dim=1), lengths, atol=1e-12)


@pytest.mark.parametrize("layer", ["text_encoder_2.encoder.layers.0.self_attn.q_proj", "vae.encoder.conv_in", "unet.x"])
def test_a_layer_of_a_part_that_the_base_has_not_is_refused(tiny_base: Path, layer: str) -> None:
    base = load_base(tiny_base)
    tensors = {f"{layer}.lora_A.weight": torch.ones(1, 2), f"{layer}.lora_B.weight": torch.ones(2, 1)}
    with pytest.raises(BaseError, match=f"has no layer `{layer}`"), added(base, tensors, {"alpha": 1.0}, 1.0):
        pass


@pytest.mark.parametrize(("bias", "own"), [(None, "no bias"), (torch.ones(4), r"one of \[4\]")])
def test_a_change_of_a_bias_that_the_base_has_not_is_refused(bias: Tensor | None, own: str) -> None:
    with pytest.raises(FormatError, match=rf"`unet\.a` changes a bias of shape \[3\], but the base has {own} there"):
        bias_change("unet.a", {"diff_b": torch.ones(3)}, bias)
    assert bias_change("unet.a", {"diff_b": torch.ones(3)}, torch.zeros(3)).equal(torch.ones(3))
