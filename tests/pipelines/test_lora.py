from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import conv2d
from transformers import CLIPTextConfig, CLIPTextModel

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.latents import decode_pixels
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError, ParamsError
from etude.core.files import Draft
from etude.core.method import load_method, needs
from etude.core.tensors import read_metadata
from etude.diffusion.noise import predict
from etude.diffusion.sample import denoise, guided, make_scheduler
from etude.diffusion.weights import parts_of
from etude.formats import identify
from etude.formats.lora import diffusers_lora, kohya_lora
from etude.training.report import Report
from pipelines.lora import method as lora
from pipelines.lora.method.adapters import alphas, inserted, saved_form
from pipelines.lora.method.settings import TARGETS
from tests.etude.training.test_plan import ADAMW
from tests.pipelines.learning import image_set, params_of, same
from tests.tiny import build_tiny

ALL = ["attention", "feed_forward", "projection", "resnet"]


def random_lora(base: Base, *, targets: list[str], rank: int = 4, alpha: float = 3.0, text: bool = True) -> Artifact:
    """Pairs for every layer that the targets name, with a B that is not zero."""
    params: Any = params_of("lora", rank=rank, alpha=alpha, targets=targets, text_encoder_rate=1.0 if text else 0.0)
    generator = torch.Generator().manual_seed(9)
    with inserted(base, params, seed=0) as pairs:
        tensors = {name: torch.randn(p.shape, generator=generator) * 0.2 for name, p in pairs.items()}
    facts = {"name": "otter", "rank": rank, "alpha": alpha, "family": base.family, "prediction": base.prediction}
    return Artifact("lora", tensors, facts)


@pytest.fixture(scope="module")
def base64(tiny_base: Path) -> Base:
    return load_base(tiny_base, dtype=torch.float64)


def test_the_change_of_every_weight_is_alpha_over_rank_times_b_times_a(base64: Base) -> None:
    artifact = random_lora(base64, targets=ALL)
    before = {name: weight.clone() for name, weight in base64.unet.named_parameters()}
    with lora.apply(artifact, base64, strength=0.5):
        after = {name: weight.clone() for name, weight in base64.unet.named_parameters()}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == len([name for name in artifact.tensors if name.startswith("unet.")]) // 2
    for name in changed:
        stem = f"unet.{name.removesuffix('.weight')}"
        down, up = (artifact.tensors[f"{stem}.lora_{half}.weight"].double() for half in "AB")
        difference = after[name] - before[name]
        formula = "or,ri->oi" if down.ndim == 2 else "orxy,rikl->oikl"
        expected = torch.einsum(formula, up, down)
        assert torch.allclose(difference, 0.5 * 3.0 / 4 * expected, atol=1e-12), name


def test_a_changed_convolution_is_the_old_one_and_two_small_ones_beside_it(base64: Base) -> None:
    artifact = random_lora(base64, targets=["resnet"], text=False)
    layer = base64.unet.down_blocks[0].resnets[0].conv1
    stem = "unet.down_blocks.0.resnets.0.conv1"
    down, up = (artifact.tensors[f"{stem}.lora_{half}.weight"].double() for half in "AB")
    x = torch.randn(2, layer.in_channels, 8, 8, dtype=torch.float64)
    plain = layer(x)
    with lora.apply(artifact, base64):
        changed = layer(x)
    beside = conv2d(conv2d(x, down, padding=1), up)
    assert torch.allclose(changed, plain + 3.0 / 4 * beside, atol=1e-11)


def test_what_is_trained_is_what_is_applied(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    params: Any = params_of("lora", rank=4, alpha=3.0, targets=ALL, text_encoder_rate=1.0)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    with inserted(base, params, seed=0) as pairs:
        for name, parameter in pairs.items():
            parameter.data = torch.randn_like(parameter) * 0.1
            assert parameter.dtype == torch.float32, name
        with torch.no_grad():
            trained = predict(base, *inputs, encode_prompts(base, ["otter", "cat"]))
        tensors = {name: parameter.detach().clone() for name, parameter in pairs.items()}
    with lora.apply(Artifact("lora", tensors, {"alpha": 3.0}), base), torch.no_grad():
        applied = predict(base, *inputs, encode_prompts(base, ["otter", "cat"]))
    assert torch.allclose(trained, applied, atol=1e-5)


def test_an_alpha_of_a_single_layer_counts_for_that_layer(base64: Base) -> None:
    artifact = random_lora(base64, targets=["attention"])
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = base64.unet.get_submodule(name).weight
    with lora.apply(artifact, base64):
        usual = weight.clone()
    other = Artifact("lora", artifact.tensors, artifact.facts | {"alphas": {f"unet.{name}": 6.0}})
    with lora.apply(other, base64):
        doubled = weight.clone()
    assert torch.allclose(doubled - weight, 2 * (usual - weight), atol=1e-12)


KINDS = ("dora", "loha", "lokr")
INPUTS = torch.randn(1, 4, 8, 8), torch.tensor([700])


def lively(base: Base, kind: str, **changes: Any) -> tuple[Artifact, Tensor]:
    """A LoRA of a kind with no factor at 0, as it is saved, and what the base answers while it is learned."""
    params: Any = params_of("lora", kind=kind, rank=4, alpha=3.0, targets=ALL, text_encoder_rate=1.0, **changes)
    facts = {"name": "otter", "rank": 4, "alpha": 3.0, "family": base.family}
    with inserted(base, params, seed=0) as found, torch.no_grad():
        for name, parameter in found.items():
            parameter.data += torch.randn_like(parameter) * (0.02 if "dora" in name else 0.1)
        answer = predict(base, *INPUTS, encode_prompts(base, ["otter"]))
        tensors = {name: saved_form(name, parameter.detach()).clone() for name, parameter in found.items()}
        facts |= {"alphas": alphas(list(found), params)}
    return Artifact("lora", tensors, facts), answer


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_learns_of_each_kind_is_what_is_applied_and_written(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_base)
    before = predict(base, *INPUTS, encode_prompts(base, ["otter"])).detach()
    artifact, learned = lively(base, kind, blocks={"unet.mid_block": 8, "text_encoder.encoder.layers.3": 2})
    (path,) = kohya_lora.write(artifact, Draft(tmp_path))
    for tensors, facts in ((artifact.tensors, artifact.facts), kohya_lora.read(path)):
        with lora.apply(Artifact("lora", tensors, facts), base), torch.no_grad():
            applied = predict(base, *INPUTS, encode_prompts(base, ["otter"]))
        assert (applied - learned).abs().max() < 1e-4 * learned.abs().max()
    assert (applied - before).abs().max() > 1e-2
    assert identify(path) == "kohya_lora"
    assert read_metadata(path)["ss_network_module"] == "lycoris.kohya"
    with lora.apply(artifact, base, strength=0.0), torch.no_grad():
        assert torch.equal(predict(base, *INPUTS, encode_prompts(base, ["otter"])), before)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_applied_in_half_precision_too(kind: str, tiny_base: Path) -> None:
    base, half = load_base(tiny_base), load_base(tiny_base, dtype=torch.bfloat16)
    artifact, _ = lively(base, kind)
    name = "down_blocks.0.resnets.0.conv1"
    layer, coarse = base.unet.get_submodule(name), half.unet.get_submodule(name)
    x = torch.randn(1, layer.in_channels, 8, 8).bfloat16().float()
    with lora.apply(artifact, base, 0.5), lora.apply(artifact, half, 0.5), torch.no_grad():
        assert torch.allclose(layer(x), coarse(x.bfloat16()).float(), rtol=0.05, atol=0.05 * float(layer(x).std()))


def test_diffusers_and_peft_draw_a_dora_as_we_do(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    artifact, _ = lively(base, "dora")
    (path,) = diffusers_lora.write(artifact, Draft(tmp_path))
    tensors, facts = diffusers_lora.read(path)
    assert sorted(tensors) == sorted(artifact.tensors)
    assert facts["alpha"] == facts["rank"]
    for name, tensor in artifact.tensors.items():
        scale = 3.0 / artifact.facts["rank"] if ".lora_B." in name else 1.0
        assert torch.allclose(tensors[name].float(), scale * tensor.float(), rtol=1e-6), name
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    with lora.apply(artifact, base), torch.no_grad():
        text = encode_prompts(base, ["otter"])
        ours = predict(base, *INPUTS, text)
        theirs = pipe.unet(*INPUTS, encoder_hidden_states=text.hidden).sample
    assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()


def test_blocks_have_ranks_of_their_own_and_the_same_scale(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    blocks = {"unet.mid_block": 8, "unet.mid_block.resnets": 2, "unet.down_blocks.0": 0}
    made = run(base, tmp_path, rank=4, alpha=2.0, blocks=blocks, targets=ALL)
    ranks = {name.removesuffix(".lora_A.weight"): len(t) for name, t in made.tensors.items() if "lora_A" in name}
    assert not [name for name in ranks if name.startswith("unet.down_blocks.0.")]
    assert {rank for name, rank in ranks.items() if name.startswith("unet.mid_block.attentions")} == {8}
    assert {rank for name, rank in ranks.items() if name.startswith("unet.mid_block.resnets")} == {2}
    assert {rank for name, rank in ranks.items() if "mid_block" not in name} == {4}
    assert all(made.facts["alphas"].get(name, 2.0) / rank == 0.5 for name, rank in ranks.items())
    for block, said in {"unet.midblock": "did you mean `unet.mid_block`", "conv_in": "no layer can be trained"}.items():
        with pytest.raises(ParamsError, match=said):
            params_of("lora", blocks={block: 8})
    for block, said in {
        "unet.mid_block.attention": "has no .*, did you mean `unet.mid_block.attentions`",
        "unet.mid_block.resnets": "has no layer of `targets` in `unet.mid_block.resnets`",
    }.items():
        with pytest.raises(BaseError, match=said):
            run(base, tmp_path / "x", blocks={block: 8}, targets=["attention"])
    with pytest.raises(ParamsError, match="leaves no layer to train"):
        run(base, tmp_path / "x", blocks={"unet": 0})


def test_with_lora_plus_b_learns_faster_and_a_does_not(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_{}.weight"
    one = {"steps": 1, "learning_rate": 1e-3, "optimizer": ADAMW | {"weight_decay": 0.0}}
    params = [params_of("lora", one, plus=plus, save="fp32") for plus in (1.0, 16.0)]
    plain, plus = (learned(base, tmp_path / str(number), p) for number, p in enumerate(params))
    assert torch.allclose(plus.tensors[name.format("B")], 16 * plain.tensors[name.format("B")], rtol=1e-3)
    assert torch.equal(plus.tensors[name.format("A")], plain.tensors[name.format("A")])  # B is 0: A has no gradient yet
    with pytest.raises(ParamsError, match="`plus` 16 changes the rate of the matrix B, which loha does not have"):
        params_of("lora", kind="loha", plus=16.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_small_change_is_not_rounded_away_in_half_precision(tiny_base: Path, dtype: torch.dtype) -> None:
    base, exact = load_base(tiny_base, dtype=dtype), load_base(tiny_base, dtype=torch.float64)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer, reference = base.unet.get_submodule(name), exact.unet.get_submodule(name)
    down, up = torch.full((1, 32), 1.0), torch.full((16, 1), 1e-5)
    pair = {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    x = torch.ones(1, 32)
    with torch.no_grad():
        reference.weight.zero_()
        reference.weight[:, 0] = 1.0
        layer.weight.copy_(reference.weight)
        with lora.apply(Artifact("lora", pair, {"alpha": 1.0}), base):
            moved = layer(x.to(dtype) * 100 * (torch.arange(32) > 0))
    assert torch.allclose(moved.double(), torch.full((1, 16), 1e-5 * 3100, dtype=torch.float64), rtol=0.02)
    assert not layer._forward_hooks


NORM, RESNET = "unet.mid_block.attentions.0.norm", "unet.mid_block.resnets.0.conv1"
LAYER_NORM = "unet.mid_block.attentions.0.transformer_blocks.0.norm1"
TABLE = "text_encoder.embeddings.position_embedding"
TEXT_NORM, OUT = "text_encoder.final_layer_norm", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"


def layer_of(base: Base, full: str) -> Any:
    """The layer of a name in an artifact."""
    part, _, name = full.partition(".")
    return {n.removeprefix("text_model."): module for n, module in parts_of(base)[part].named_modules()}[name]


def whole_differences(base: Base) -> Artifact:
    """LyCORIS' `full`: weights, biases and norms, each half of the base's own in size."""
    torch.manual_seed(4)
    tensors = {}
    for full in (NORM, LAYER_NORM, RESNET, TEXT_NORM, OUT):
        for own, factor in (("weight", "diff"), ("bias", "diff_b")):
            value = getattr(layer_of(base, full), own).detach().float()
            tensors[f"{full}.{factor}"] = torch.randn(value.shape) * 0.5 * value.std().clamp(min=0.1)
    return Artifact("lora", tensors, {"name": "otter", "rank": 1, "alpha": 1.0, "family": "sd1"})


def test_whole_differences_of_weights_biases_and_norms_are_added_and_taken_away(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    artifact = whole_differences(base)
    parts = parts_of(base)
    before = {part: {n: p.clone() for n, p in module.named_parameters()} for part, module in parts.items()}
    with lora.apply(artifact, base, strength=0.5):
        changed = 0
        for part, module in parts.items():
            for name, parameter in module.named_parameters():
                layer, _, kind = f"{part}.{name.removeprefix('text_model.')}".rpartition(".")
                delta = artifact.tensors.get(f"{layer}.{'diff' if kind == 'weight' else 'diff_b'}")
                expected = before[part][name] + (0 if delta is None else 0.5 * delta)
                assert torch.equal(parameter, expected), name
                changed += delta is not None
        assert changed == 10
    for part, module in parts.items():
        assert all(torch.equal(p, before[part][n]) for n, p in module.named_parameters())


def test_whole_differences_are_the_same_in_half_precision(tiny_base: Path) -> None:
    whole, half = load_base(tiny_base), load_base(tiny_base, dtype=torch.bfloat16)
    artifact = whole_differences(whole)
    for full in (NORM, LAYER_NORM, RESNET, TEXT_NORM, OUT):
        outputs = []
        for base in (whole, half):
            layer = layer_of(base, full)
            width = layer.weight.shape[1 if layer.weight.ndim > 1 else 0]
            shape = (1, width, 4, 4) if full in (NORM, RESNET) else (1, 16, width)
            x = torch.linspace(-2, 3, math.prod(shape)).view(shape).sin().to(layer.weight.dtype)
            with lora.apply(artifact, base):
                changed = layer(x).float()
            outputs.append(changed - layer(x).float())
        assert outputs[0].norm() > 0.1
        assert (outputs[1] - outputs[0]).norm() < 0.08 * outputs[0].norm(), full


def test_a_whole_difference_of_an_embedding_table_is_added_in_each_precision(tiny_base: Path) -> None:
    ids = torch.arange(77)[None]
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(tiny_base, dtype=dtype)
        table = layer_of(base, TABLE)
        delta = torch.linspace(-1, 1, table.weight.numel()).view(table.weight.shape)
        with lora.apply(Artifact("lora", {f"{TABLE}.diff": delta}, {"rank": 1, "alpha": 1.0}), base):
            changed = table(ids)
        assert (changed - table(ids) - delta).abs().max() < 0.03


def test_a_change_of_a_bias_that_the_base_lacks_is_refused(tiny_base: Path) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    artifact = Artifact("lora", {f"{layer}.diff_b": torch.ones(64)}, {"rank": 1, "alpha": 1.0})
    fault = r"to_q` changes a bias of shape \[64\], but the base has no bias there"
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(tiny_base, dtype=dtype)
        with pytest.raises(FormatError, match=fault), lora.apply(artifact, base):
            pass


def test_an_embedding_that_came_in_the_file_is_a_word_while_the_lora_is_applied(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    artifact = random_lora(base, targets=["attention"], text=False)
    rows = torch.randn(2, 32)
    bundled = Artifact("lora", artifact.tensors | {"words.0.text_encoder": rows}, artifact.facts | {"words": ["zork"]})
    before = encode_prompts(base, ["a zork"])
    with lora.apply(bundled, base):
        assert torch.equal(base.words["zork"][0], rows)
        changed = encode_prompts(base, ["a zork"])
    assert not base.words
    after = encode_prompts(base, ["a zork"])
    assert torch.equal(before.hidden, after.hidden)
    assert not torch.equal(before.hidden, changed.hidden)


def test_a_lora_of_another_base_is_refused_and_leaves_the_base_alone(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    before = {name: weight.clone() for name, weight in base.unet.named_parameters()}
    artifact = random_lora(base, targets=["attention"])
    last = [name for name in artifact.tensors if name.startswith("text_encoder.") and "lora_A" in name][-1]
    wider = Artifact("lora", artifact.tensors | {last: torch.zeros(4, 768)}, artifact.facts)
    shapes = r"`text_encoder\.encoder.* the base's weight has \[32, 32\]"
    with pytest.raises(FormatError, match=shapes), lora.apply(wider, base):
        pass
    strange = Artifact("lora", artifact.tensors | {"unet.mid.lora_A.weight": torch.zeros(4, 8)}, artifact.facts)
    with pytest.raises(BaseError, match=r"has no layer `unet\.mid`"), lora.apply(strange, base):
        pass
    assert all(torch.equal(weight, before[name]) for name, weight in base.unet.named_parameters())


@pytest.fixture(params=[kohya_lora, diffusers_lora], ids=["kohya", "diffusers"])
def form(request: pytest.FixtureRequest) -> Iterator[Any]:
    return request.param


def test_diffusers_predicts_the_same_from_our_files(form: Any, tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    artifact = random_lora(base, targets=ALL)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    (path,) = form.write(artifact, Draft(tmp_path))
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 20])
    with lora.apply(artifact, base), torch.no_grad():
        text = encode_prompts(base, ["noto otter", "a red cat"])
        ours = predict(base, noisy, t, text)
        ids = pipe.tokenizer(["noto otter", "a red cat"], padding="max_length", return_tensors="pt").input_ids
        theirs_text = pipe.text_encoder(ids)[0]
        theirs = pipe.unet(noisy, t, encoder_hidden_states=theirs_text).sample
    assert (text.hidden - theirs_text).abs().max() < 1e-5
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - predict(base, noisy, t, text)).abs().max() > 1e-2


def our_image(base: Base, prompt: str, noise: Tensor) -> Tensor:
    positive, negative = encode_prompts(base, [prompt]), encode_prompts(base, [""])
    latents = denoise(
        lambda z, t, _: guided(base, z, t, positive, negative, 3.0), make_scheduler(base, "ddim", 4), noise
    )
    return decode_pixels(base, latents).detach()


def test_diffusers_draws_the_same_picture_from_our_files(
    form: Any, base64: Base, tiny_base: Path, tmp_path: Path
) -> None:
    artifact = random_lora(base64, targets=ALL)
    noise = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    with lora.apply(artifact, base64), torch.no_grad():
        ours = our_image(base64, "noto otter", noise)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(make_scheduler(base64, "ddim", 4).config)
    (path,) = form.write(artifact, Draft(tmp_path))
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    asked = {"guidance_scale": 3.0, "num_inference_steps": 4, "height": 64, "width": 64, "output_type": "pt"}
    theirs = pipe("noto otter", latents=noise, **asked).images
    assert theirs.dtype == torch.float64
    assert (ours - theirs).abs().max() < 1e-6


def test_diffusers_predicts_the_same_for_sdxl_with_both_text_encoders(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = build_tiny(tmp_path_factory.mktemp("sdxl") / "tiny", "sdxl")
    base = load_base(folder, dtype=torch.float64)  # its text states reach hundreds: float32 would differ by 1e-4
    artifact = random_lora(base, targets=ALL, alpha=2.0)  # a scale that B can have in it without rounding
    assert any(name.startswith("text_encoder_2.") for name in artifact.tensors)
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True).to(torch.float64)
    noisy, t = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.tensor([500])
    with lora.apply(artifact, base), torch.no_grad():
        text = encode_prompts(base, ["noto otter"])
        ours = predict(base, noisy, t, text)
    for form in (kohya_lora, diffusers_lora):
        (path,) = form.write(artifact, Draft(tmp_path))
        pipe.load_lora_weights(tmp_path, weight_name=path.name)
        with torch.no_grad():
            hidden, _, pooled, _ = pipe.encode_prompt("noto otter", do_classifier_free_guidance=False)
            added = {"text_embeds": pooled, "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]])}
            theirs = pipe.unet(noisy, t, encoder_hidden_states=hidden, added_cond_kwargs=added).sample
        assert (text.hidden - hidden).abs().max() < 1e-6
        assert (ours - theirs).abs().max() < 1e-6
        pipe.unload_lora_weights()


def true_sd15() -> Any:
    """The parts of SD 1.5 that a LoRA changes, without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        text = CLIPTextModel(CLIPTextConfig(**size))
    return SimpleNamespace(unet=unet, text_encoders=(text,), text_parts=("text_encoder",))


def count(base: Any, targets: list[str], text: bool) -> tuple[int, int]:
    """(layers, values) of a LoRA of rank 4, both by what is put into the model."""
    params: Any = params_of("lora", rank=4, targets=targets, text_encoder_rate=1.0 if text else 0.0)
    with inserted(base, params, seed=0) as pairs:
        return len(pairs) // 2, sum(parameter.numel() for parameter in pairs.values())


def test_counts_on_the_true_sd15_are_those_of_the_formulas(tmp_path: Path) -> None:
    base = true_sd15()
    assert count(base, ["attention"], text=False) == (128, 199_296 * 4)
    kohya = ["attention", "feed_forward", "projection"]
    assert count(base, kohya, text=False) == (192, 423_936 * 4)
    assert count(base, kohya, text=True) == (192 + 72, 589_824 * 4)
    assert count(base, ALL, text=False) == (228 + 50, (506_816 + 544_000) * 4)


def values_of(kind: str, layer: Any, rank: int, factor: int) -> int:
    """Values that a kind gives to a layer [out, in(, k, k)], by its formula."""
    out, inner, *kernel = layer.weight.shape
    area = math.prod(kernel)
    pair = rank * (inner * area + out)
    if kind in ("lora", "dora"):
        return pair + (out if kind == "dora" else 0)  # DoRA: the length of every row besides
    if kind == "loha":
        return 2 * pair
    small, wide = out // factor, inner // factor * area  # of the larger factor, out/f × in/f·k²
    two = small * wide if rank >= max(small, inner // factor) / 2 else rank * (small + wide)
    return factor * factor + two


@pytest.mark.parametrize("kind", ["lora", *KINDS])
def test_a_file_of_each_kind_for_the_true_sd15_is_as_large_as_its_formula_says(kind: str, tmp_path: Path) -> None:
    base = true_sd15()
    params: Any = params_of("lora", rank=8, alpha=8.0, kind=kind, factor=8, targets=ALL, text_encoder_rate=0.0)
    chosen = re.compile(rf"(.*\.)?({'|'.join(TARGETS.values())})")
    layers = [layer for name, layer in base.unet.named_modules() if chosen.fullmatch(name)]
    with inserted(base, params, seed=0) as found:
        zeros = {n: torch.zeros(p.shape, dtype=torch.float16) for n, p in found.items()}
    expected = sum(values_of(kind, layer, 8, 8) for layer in layers)
    assert sum(tensor.numel() for tensor in zeros.values()) == expected
    facts = {"name": "sks", "rank": 8, "alpha": 8.0, "family": "sd1"}
    (path,) = kohya_lora.write(Artifact("lora", zeros, facts), Draft(tmp_path))
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + 2 * expected + 4 * len(layers)  # fp16, and an alpha a layer


def test_a_kohya_file_for_sd15_is_as_large_as_its_values(tmp_path: Path) -> None:
    params: Any = params_of("lora", rank=4, targets=["attention", "feed_forward", "projection"], text_encoder_rate=1.0)
    with inserted(true_sd15(), params, seed=0) as pairs:
        tensors = {name: torch.zeros(pair.shape, dtype=torch.float16) for name, pair in pairs.items()}
    facts = {"name": "sks", "rank": 4, "alpha": 4.0, "family": "sd1"}
    (path,) = kohya_lora.write(Artifact("lora", tensors, facts), Draft(tmp_path))
    assert path.stat().st_size == pytest.approx(589_824 * 4 * 2 + 264 * 4, rel=0.05)


def run(base: Base, scratch: Path, **changes: Any) -> Artifact:
    return learned(base, scratch, params_of("lora", {"steps": 3}, **changes))


def learned(base: Base, scratch: Path, params: Any) -> Artifact:
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    data = {name: value for name, value in image_set(base).items() if name in needs(load_method("lora"))}
    return lora.build(base=base, **data, params=params, report=report)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_class_images_are_learned_too_where_they_have_a_weight(tiny_base: Path, tmp_path: Path, rate: float) -> None:
    base, asked = load_base(tiny_base), {"text_encoder_rate": rate, "clip_skip": 1}
    real = params_of("lora")
    class_images = real.class_images.model_copy(update={"real": ["bears"]}).model_dump()  # type: ignore[attr-defined]
    off, on = run(base, tmp_path / "off", **asked), {}
    for weight in (0.5, 1.0):
        changes = asked | {"prior_weight": weight, "class_images": class_images}
        on[weight] = run(base, tmp_path / f"{weight}", **changes)
    none = params_of("lora", {"steps": 3}, **asked)
    data = image_set(base) | {"class_images": None}
    given = {name: data[name] for name in needs(load_method("lora"))}
    report = Report(tmp_path / "none", seed=3, device="cpu", precision="fp32")
    assert same(off.tensors, lora.build(base=base, **given, params=none, report=report).tensors)
    assert not same(off.tensors, on[1.0].tensors)
    assert not same(on[0.5].tensors, on[1.0].tensors)


@pytest.mark.parametrize("alpha", [16.0, 6.0])
def test_the_short_way_through_a_layer_gives_the_same_bits_as_pefts(tiny_base: Path, alpha: float) -> None:
    base, noisy = load_base(tiny_base, parts=("unet",)), torch.randn(1, 4, 8, 8)
    text, t = Conditioning(torch.randn(1, 77, 32)), torch.tensor([500])
    params = params_of("lora", targets=["attention", "resnet"], alpha=alpha)

    def gradients(half: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            found = torch.autograd.grad(predict(base, noisy, t, text).float().square().sum(), list(parameters.values()))
        return list(found)

    with inserted(base, params, 0) as parameters:
        for number, tensor in enumerate(parameters.values()):
            torch.nn.init.normal_(tensor, std=0.1, generator=torch.Generator().manual_seed(number))
        short = [gradients(half) for half in (False, True)]
        for layer in base.unet.modules():
            vars(layer).pop("forward", None)
        longer = [gradients(half) for half in (False, True)]
    for one, other in zip(short, longer, strict=True):
        assert [torch.equal(own, theirs) for own, theirs in zip(one, other, strict=True)] == [True] * len(one)
    assert not torch.equal(short[0][0], short[1][0])  # half precision was used


def test_the_text_encoder_learns_only_on_request_and_at_its_own_rate(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    without = run(base, tmp_path / "a")
    assert {name.partition(".")[0] for name in without.tensors} == {"unet"}
    slow, fast = (run(base, tmp_path / str(rate), text_encoder_rate=rate, save="fp32") for rate in (0.001, 1.0))
    name = "text_encoder.encoder.layers.3.self_attn.v_proj.lora_B.weight"
    assert 0 < slow.tensors[name].abs().max() < 0.01 * fast.tensors[name].abs().max()


def test_the_start_is_the_one_that_was_asked_for_and_follows_from_the_seed_alone(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight"
    starts = {}
    for initial in ("gaussian", "kaiming"):
        params: Any = params_of("lora", rank=16, initial=initial)
        with inserted(base, params, seed=1) as pairs:
            starts[initial] = pairs[name].detach().clone()
            assert all(not p.any() for n, p in pairs.items() if "lora_B" in n)
        with inserted(base, params, seed=1) as pairs:
            assert torch.equal(pairs[name], starts[initial])
        with inserted(base, params, seed=2) as pairs:
            assert not torch.equal(pairs[name], starts[initial])
    assert starts["gaussian"].std() == pytest.approx(1 / 16, rel=0.2)
    assert starts["kaiming"].abs().max() <= 32**-0.5  # √(6 / (1 + 5)) / √in
    assert starts["kaiming"].std() == pytest.approx((3 * 32) ** -0.5, rel=0.2)


def test_dropout_and_dropped_captions_change_what_is_learned(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_B.weight"
    results = [
        run(base, tmp_path / str(number), save="fp32", **changes).tensors[name]
        for number, changes in enumerate(({}, {"dropout": 0.5}, {"caption_dropout": 0.9}))
    ]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_captions_are_worded_as_asked(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    plain = run(base, tmp_path / "a")
    worded = run(base, tmp_path / "b", caption="[name], [caption]", name="fox")
    assert plain.facts["tags"] == {"noto otter": 1, "flat otter on a red background": 1, "otter": 1}
    assert sorted(worded.facts["tags"]) == ["fox, flat otter on a red background", "fox, noto otter", "fox, otter"]
    assert any(not torch.equal(plain.tensors[name], worded.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"rank": 0}, "rank"), ({"targets": ["attn"]}, "targets"), ({"caption": "a"}, "caption"), ({"save": 16}, "save")],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=f"`{said}"):
        params_of("lora", **change)
