from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError, ParamsError
from etude.core.params import validate
from etude.core.randomness import mix
from etude.diffusion.noise import predict
from etude.training.batches import Batches
from etude.training.report import Report
from pipelines.hypernetwork import method as hypernetwork
from pipelines.hypernetwork.method.networks import Design, initialise, input_widths, make_networks
from tests.etude.training.test_plan import SGD
from tests.pipelines.learning import image_set, learn, params_of, picture
from tests.tiny import build_tiny

METHOD = "hypernetwork"
ACTIVATIONS: dict[str, Any] = {"linear": nn.Identity, "swish": nn.Hardswish, "relu": nn.ReLU, "mish": nn.Mish}


def lively(base: Base, seed: int = 0, **changes: Any) -> Artifact:
    """Networks for every width of the base, with values large enough to be seen in a picture."""
    facts = {"structure": [1.0, 2.0, 1.0], "activation": "linear", "activate_output": False, "layer_norm": False}
    facts |= changes
    networks = make_networks(input_widths(base.unet), hypernetwork._design(facts))
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(p.shape, generator=generator) * 0.3 for n, p in networks.named_parameters()}
    return Artifact(METHOD, tensors, facts | {"name": "sks", "initial": "Normal"})


def reference(artifact: Artifact, side: str, x: Tensor, strength: float) -> Tensor:
    """x + strength · stack(x), written out from the tensors."""
    facts, width, layers = artifact.facts, x.shape[-1], len(artifact.facts["structure"]) - 1
    h = x
    for number in range(layers):
        tensors = {
            name.removeprefix(f"{width}.{side}.{number}."): tensor.to(x)
            for name, tensor in artifact.tensors.items()
            if name.startswith(f"{width}.{side}.{number}.")
        }
        h = h @ tensors["linear.weight"].T + tensors["linear.bias"]
        if facts["activate_output"] or number < layers - 1:
            h = ACTIVATIONS[facts["activation"]]()(h)
        if facts["layer_norm"]:
            centred = h - h.mean(-1, keepdim=True)
            h = centred / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            h = h * tensors["norm.weight"] + tensors["norm.bias"]
    return x + strength * h


DESIGNS = [
    {},
    {"structure": [1.0, 1.5, 1.5, 1.0], "activation": "swish"},
    {"activation": "mish", "activate_output": True, "layer_norm": True},
    {"structure": [1.0, 0.75, 0.5, 0.5, 0.5, 0.75, 1.0], "activation": "relu", "layer_norm": True},
    {"structure": [1.0, 1.0]},
]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
@pytest.mark.parametrize("strength", [1.0, -0.4])
def test_keys_and_values_are_computed_from_the_changed_input_and_queries_are_not(
    design: dict[str, Any], strength: float, tiny_base: Path
) -> None:
    base = load_base(tiny_base, dtype=torch.float64, parts=("unet",))
    artifact = lively(base, **design)
    block = base.unet.mid_block.attentions[0].transformer_blocks[0]
    for attention in (block.attn1, block.attn2):
        x = torch.randn(2, 5, attention.to_k.in_features, dtype=torch.float64)
        query = attention.to_q(x) if attention is block.attn1 else None
        key, value = (attention.get_submodule(f"to_{s}")(reference(artifact, s, x, strength)) for s in "kv")
        with hypernetwork.apply(artifact, base, strength=strength):
            assert torch.allclose(attention.to_k(x), key, atol=1e-10)
            assert torch.allclose(attention.to_v(x), value, atol=1e-10)
            assert query is None or torch.equal(attention.to_q(x), query)


def test_a_self_attention_layer_and_the_text_of_equal_width_share_a_pair(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("unet",))
    assert input_widths(base.unet) == [16, 24, 32]
    assert base.unet.config.cross_attention_dim == base.unet.config.block_out_channels[2] == 32
    assert {name.partition(".")[0] for name in lively(base).tensors} == {"16", "24", "32"}


def test_strength_0_is_the_base_and_more_is_further_from_it(tiny_base: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64, parts=("unet", "text"))
    artifact, text = lively(base), encode_prompts(base, ["otter"])
    noisy, t = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.tensor([500])
    with torch.no_grad():
        untouched = predict(base, noisy, t, text)
        far = []
        for strength in (0.0, 0.05, 0.2):
            with hypernetwork.apply(artifact, base, strength=strength):
                far.append(float((predict(base, noisy, t, text) - untouched).abs().mean()))
    assert far[0] == 0
    assert 0 < far[1] < far[2]


def test_two_that_are_applied_one_inside_the_other_are_a_chain(tiny_base: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64, parts=("unet",))
    first, second = lively(base, 1), lively(base, 2, activation="swish")
    layer = base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    x = torch.randn(1, 3, 32, dtype=torch.float64)
    expected = layer(reference(second, "k", reference(first, "k", x, 0.5), 2.0))
    other = layer(reference(first, "k", reference(second, "k", x, 2.0), 0.5))
    with hypernetwork.apply(first, base, strength=0.5), hypernetwork.apply(second, base, strength=2.0):
        assert torch.allclose(layer(x), expected, atol=1e-10)
    assert not torch.allclose(expected, other, atol=1e-3)
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_gets_its_networks_in_float32(dtype: torch.dtype, tiny_base: Path) -> None:
    base = load_base(tiny_base, dtype=dtype, parts=("unet",))
    artifact = lively(base)
    layer = base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    seen: list[Tensor] = []
    x = torch.randn(1, 3, 32).to(dtype)
    with hypernetwork.apply(artifact, base), ExitStack() as undo:
        undo.callback(layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])).remove)
        layer(x)
    assert torch.equal(seen[0], reference(artifact, "v", x.float(), 1.0).to(dtype))


@pytest.mark.parametrize("activation", hypernetwork.Activation.__args__)  # type: ignore[attr-defined]
def test_every_activation_is_one_of_torch_and_keeps_the_shape(activation: str) -> None:
    networks = make_networks([8], Design([1, 2, 1], activation, activate_output=True, layer_norm=False)).eval()
    stack: Any = networks["8"]["k"]  # type: ignore[index]
    assert stack(torch.randn(2, 3, 8)).shape == (2, 3, 8)
    if activation != "linear":
        kind = type(stack[0].activation)
        assert kind.__name__.lower() == ("hardswish" if activation == "swish" else activation)
    x = torch.randn(4, 3, 8)
    assert torch.allclose(stack(x)[:1], stack(x[:1]), atol=1e-6)  # no picture depends on its neighbours


SPREAD = {  # of the weights of a layer from n to m
    "Normal": lambda n, m: 0.01,
    "XavierUniform": lambda n, m: (2 / (n + m)) ** 0.5,
    "XavierNormal": lambda n, m: (2 / (n + m)) ** 0.5,
    "KaimingUniform": lambda n, m: (2 / n) ** 0.5,
    "KaimingNormal": lambda n, m: (2 / n) ** 0.5,
}


@pytest.mark.parametrize("initial", SPREAD)
@pytest.mark.parametrize("unit_gain", [True, False])
def test_weights_start_with_the_spread_that_their_name_promises(initial: str, unit_gain: bool) -> None:
    networks = make_networks([96], Design([1, 2, 1], "swish", activate_output=True, layer_norm=True))
    torch.manual_seed(0)
    initialise(networks, initial, "swish", unit_gain)
    for name, tensor in networks.named_parameters():
        if name.endswith("linear.weight"):
            out, inner = tensor.shape
            tensor = tensor.detach()
            assert float(tensor.std()) == pytest.approx(SPREAD[initial](inner, out), rel=0.05)
            bound = tensor.abs().max() / tensor.std()
            assert (bound < 3**0.5 * 1.02) == initial.endswith("Uniform")
        elif name.endswith("norm.weight"):
            assert torch.equal(tensor, torch.ones_like(tensor)) if unit_gain else 0 < tensor.std() < 0.02
        else:
            assert not tensor.any()


def test_with_the_gains_of_a1111_a_stack_begins_near_nothing() -> None:
    x = torch.randn(4, 10, 32)
    sizes = {}
    for gain in (False, True):
        networks = make_networks([32], Design([1, 2, 1], "swish", activate_output=True, layer_norm=True))
        torch.manual_seed(1)
        initialise(networks, "Normal", "swish", gain)
        sizes[gain] = float(networks["32"]["k"](x).detach().abs().mean())  # type: ignore[index]
    assert sizes[False] < 0.02 < 0.5 < sizes[True]


def true_unet(family: str) -> UNet2DConditionModel:
    """The UNet of a family with its true widths, without values."""
    from etude.base.single import CONFIGS

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / family / "unet"))


SIZES = {  # values for SD 1.5, from the formula 2 Σ_d Σ_i (in · out + out)
    (1, 2, 1): 21_939_840,
    (1, 2, 2, 1): 43_873_664,
    (1, 1.5, 1.5, 1): 28_796_416,
    (1, 1.5, 1.5, 1.5, 1): 41_136_448,
    (1, 3, 1): 32_906_752,
    (1, 4, 1): 43_873_664,
    (1, 0.75, 0.5, 0.5, 0.5, 0.75, 1): 15_095_296,
    (1, 2, 4, 2, 1): 109_663_104,
    (1, 2, 2, 2, 1): 65_807_488,
    (1, 2, 3, 2, 1): 87_735_296,
}


def count(widths: list[int], structure: tuple[float, ...], norm: bool = False) -> int:
    with torch.device("meta"):
        networks = make_networks(widths, Design(structure, "linear", activate_output=False, layer_norm=norm))
    return sum(parameter.numel() for parameter in networks.parameters())


def test_the_sizes_of_all_structures_on_sd15_are_those_of_the_formula() -> None:
    widths = input_widths(true_unet("sd1"))
    assert widths == [320, 640, 768, 1280]
    assert {structure: count(widths, structure) for structure in SIZES} == SIZES
    for structure, values in SIZES.items():
        pairs = [(int(d * a), int(d * b)) for d in widths for a, b in pairwise(structure)]
        assert values == 2 * sum(inner * outer + outer for inner, outer in pairs)
    assert count(widths, (1, 2, 1), norm=True) == 21_975_936


@pytest.mark.parametrize(("family", "widths"), [("sd2", [320, 640, 1024, 1280]), ("sdxl", [640, 1280, 2048])])
def test_other_families_have_other_widths(family: str, widths: list[int]) -> None:
    assert input_widths(true_unet(family)) == widths
    if family == "sd2":
        assert count(widths, (1, 2, 1)) == 25_611_392


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_it_learns_on_the_other_families(family: str, tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", family))
    artifact = learn(METHOD, base, params_of(METHOD, {"steps": 2, "checkpoint_every": 2}), tmp_path / "scratch")
    assert {int(name.partition(".")[0]) for name in artifact.tensors} == set(input_widths(base.unet))
    untouched = picture(base)
    with hypernetwork.apply(artifact, base, strength=5.0):
        assert not torch.equal(picture(base), untouched)
    assert torch.equal(picture(base), untouched)


def run(base: Base, scratch: Path, training: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, {"steps": 3, "checkpoint_every": 3} | (training or {}), **changes)
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    data = image_set(base)
    return hypernetwork.build(base=base, images=data["images"], captions=data["captions"], params=params, report=report)


def test_what_is_trained_is_what_is_applied(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    params: Any = params_of(
        METHOD, structure=[1, 1.5, 1], activation="swish", layer_norm="unit", initial="XavierNormal"
    )
    noisy, t, text = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), encode_prompts(base, ["otter", "cat"])
    with torch.no_grad():
        with hypernetwork._learning(base, params, 0) as weights:
            trained = predict(base, noisy, t, text)
            tensors = {name: weight.detach().clone() for name, weight in weights.items()}
        facts = {"structure": [1, 1.5, 1], "activation": "swish", "activate_output": False, "layer_norm": True}
        with hypernetwork.apply(Artifact(METHOD, tensors, facts), base):
            assert torch.equal(predict(base, noisy, t, text), trained)
        assert not torch.equal(predict(base, noisy, t, text), trained)


def test_the_gradient_is_the_slope_of_the_loss(tiny_base: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64, parts=("unet", "text"))
    params: Any = params_of(METHOD, structure=[1, 2, 1], activation="swish", initial="XavierNormal")
    noisy, t = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.tensor([300])
    text = encode_prompts(base, ["otter"])
    with hypernetwork._learning(base, params, 0) as weights:
        for weight in weights.values():
            weight.data = weight.data.double()
        loss = predict(base, noisy, t, text).square().mean()
        loss.backward()
        for name in ("32.k.0.linear.weight", "16.v.1.linear.weight", "24.v.0.linear.bias"):
            weight = weights[name]
            assert weight.grad is not None
            direction = torch.randn_like(weight)
            slope, step = float((weight.grad * direction).sum()), 1e-6
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight.add_(sign * step * direction)
                    values.append(float(predict(base, noisy, t, text).square().mean()))
                    weight.sub_(sign * step * direction)
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-12), name


def test_a_step_goes_against_the_gradient_of_the_written_formula(tiny_base: Path, tmp_path: Path) -> None:
    """mean (ε_θ(√ᾱ z + √(1-ᾱ) ε, t, c) - ε)², with keys and values of x + stack(x), written out from the tensors."""
    base, seed = load_base(tiny_base, dtype=torch.float64), 3
    plain = {"steps": 1, "optimizer": SGD, "learning_rate": 10.0, "clip": 0.0, "min_snr": 0.0}
    changes = {"structure": [1, 2, 1], "activation": "swish", "initial": "XavierNormal", "caption_dropout": 0.0}
    params: Any = params_of(METHOD, plain, **changes)
    with hypernetwork._learning(base, params, seed) as weights:
        start = {name: weight.detach().double().requires_grad_() for name, weight in weights.items()}
    made = run(base, tmp_path, plain, **changes)
    data = image_set(base)
    batch = Batches(data["images"], None, batch_size=2, seed=seed)(0)
    torch.manual_seed(mix(seed, "step", 0))
    z = (batch.mean + (0.5 * batch.logvar).exp() * torch.randn_like(batch.mean)) * base.scaling_factor
    ε = torch.randn_like(z)
    ᾱ = base.alphas_cumprod.double()[t := torch.randint(1000, (2,))].view(2, 1, 1, 1)
    text = encode_prompts(base, [data["captions"].texts[name] for name in batch.names]).hidden
    started = Artifact(METHOD, start, made.facts)

    def changed(side: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return reference(started, side, inputs[0], 1.0)

    with ExitStack() as undo:
        for name, layer in base.unet.named_modules():
            if re.search(r"attn[12]\.to_[kv]$", name):
                undo.callback(layer.register_forward_pre_hook(partial(changed, name[-1])).remove)
        answer = base.unet(ᾱ.sqrt() * z + (1 - ᾱ).sqrt() * ε, t, encoder_hidden_states=text).sample
    (answer - ε).square().mean().backward()
    for name, tensor in start.items():
        assert tensor.grad is not None
        expected = (tensor.detach() - 10 * tensor.grad).float()
        torch.testing.assert_close(made.tensors[name], expected, rtol=1e-4, atol=1e-6)


def test_the_start_follows_from_the_seed_alone(tiny_base: Path) -> None:
    base, starts = load_base(tiny_base, parts=("unet",)), []
    params: Any = params_of(METHOD, structure=[1, 2, 1])
    for seed in (1, 1, 2):
        with hypernetwork._learning(base, params, seed) as weights:
            starts.append(torch.cat([weight.detach().flatten() for weight in weights.values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_dropout_is_for_learning_and_not_for_previews(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    params: Any = params_of(METHOD, dropout=[0, 0.9, 0], initial="XavierNormal")
    from etude.training.preview import evaluating

    noisy, t, text = torch.randn(1, 4, 8, 8), torch.tensor([700]), encode_prompts(base, ["cat"])
    with torch.no_grad(), hypernetwork._learning(base, params, 0):
        learning = [predict(base, noisy, t, text) for _ in range(2)]
        with evaluating(base):
            preview = [predict(base, noisy, t, text) for _ in range(2)]
    assert not torch.equal(*learning)
    assert torch.equal(*preview)
    plain, dropped = run(base, tmp_path / "a"), run(base, tmp_path / "b", dropout=[0, 0.5, 0])
    assert sorted(plain.tensors) == sorted(dropped.tensors)
    assert any(not torch.equal(plain.tensors[name], dropped.tensors[name]) for name in plain.tensors)
    assert dropped.facts["dropout"] == [0, 0.5, 0]


def test_only_the_widths_that_are_asked_for_get_networks(tiny_base: Path, tmp_path: Path) -> None:
    artifact = run(load_base(tiny_base), tmp_path, widths=[16], structure=[1, 0.5, 2, 1], activation="prelu")
    shapes = {name: tuple(tensor.shape) for name, tensor in artifact.tensors.items() if ".k." in name}
    assert shapes == {
        "16.k.0.linear.weight": (8, 16),
        "16.k.0.linear.bias": (8,),
        "16.k.0.activation.weight": (1,),
        "16.k.1.linear.weight": (32, 8),
        "16.k.1.linear.bias": (32,),
        "16.k.1.activation.weight": (1,),
        "16.k.2.linear.weight": (16, 32),
        "16.k.2.linear.bias": (16,),
    }


def test_a_hypernetwork_of_another_base_or_a_broken_one_is_refused(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    facts = lively(base).facts
    with torch.device("meta"):
        wide = make_networks([768], hypernetwork._design(facts))
    tensors = {name: torch.zeros(parameter.shape) for name, parameter in wide.named_parameters()}
    with pytest.raises(BaseError, match="no attention whose input has a width of 768"):  # noqa: SIM117
        with hypernetwork.apply(Artifact(METHOD, tensors, facts), base):
            raise AssertionError("it was applied")
    deeper = Artifact(METHOD, lively(base).tensors, facts | {"structure": [1.0, 2.0, 2.0, 1.0]})
    with pytest.raises(FormatError, match="do not fit the structure"), hypernetwork.apply(deeper, base):
        raise AssertionError("it was applied")
    thin = Artifact(METHOD, lively(base).tensors, facts | {"structure": [1.0, 0.05, 1.0]})
    with pytest.raises(FormatError, match="of 16 to 0. Next: use another file"), hypernetwork.apply(thin, base):
        raise AssertionError("it was applied")
    strange = Artifact(METHOD, lively(base).tensors, facts | {"activation": "softmax2d"})
    with pytest.raises(FormatError, match="`softmax2d` is not supported"), hypernetwork.apply(strange, base):
        raise AssertionError("it was applied")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"structure": [2, 1]}, "`structure` .* begin and end with 1"),
        ({"structure": [1]}, "`structure`"),
        ({"dropout": [0, 0.3]}, "`dropout` has 2 values, but `structure` has 3"),
        ({"dropout": [0, 0.3, 0.3]}, "`dropout` .* begin and end with 0"),
        ({"dropout": [0, 1.0, 0]}, r"`dropout\.1`"),
        ({"activation": "glu"}, "`activation`"),
        ({"initial": "normal"}, "`initial`"),
        ({"widths": [0]}, "`widths"),
    ],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_of(METHOD, **change)


def test_what_only_the_base_can_tell_is_refused_before_anything_is_learned(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    with pytest.raises(ParamsError, match=r"`widths` has 768, but .* has 16, 24, 32"):
        run(base, tmp_path, widths=[16, 768])
    match = r"params.yaml: .*\[1.0, 0.05, 1.0\] reduces a width of 16 to 0. Next: use larger numbers in `structure`"
    with pytest.raises(ParamsError, match=match):
        run(base, tmp_path, structure=[1, 0.05, 1])
    assert not hasattr(base.unet, "hypernetwork")


def test_structures_of_the_notes_are_accepted() -> None:
    values = params_of(METHOD).model_dump(mode="json")
    for structure in SIZES:
        made: Any = validate(values | {"structure": list(structure)}, hypernetwork.Params, METHOD)
        assert made.structure == list(structure)
