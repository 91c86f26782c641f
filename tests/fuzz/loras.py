"""LoRAs as programs write them, and whether Étude changes weights as these do.

The number of a file chooses among the forms that its format has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.factors import by_layer
from etude.core.files import Draft
from etude.diffusion.factors import bias_change, change
from etude.formats import load_format
from etude.formats.kinds import open_any, same_kind
from tests.etude.formats.lora.peft_net import Net
from tests.fuzz import programs

ATTENTION = "transformer_blocks.0.attn2.to_q"
# Étude's name of a layer, and those by kohya, and with dots by OneTrainer, ComfyUI and diffusers.
LAYERS = {
    f"unet.mid_block.attentions.0.{ATTENTION}": (
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q",
        f"unet.mid_block.attentions.0.{ATTENTION}",
        f"unet.middle_block.1.{ATTENTION}",
        f"diffusion_model.middle_block.1.{ATTENTION}",
        f"lora_unet.mid_block.attentions.0.{ATTENTION}",
    ),
    "text_encoder.encoder.layers.0.mlp.fc1": (
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "clip_l.text_model.encoder.layers.0.mlp.fc1",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
        "lora_te1.text_model.encoder.layers.0.mlp.fc1",
    ),
}
OWN = {spelling: layer for layer, spellings in LAYERS.items() for spelling in spellings}
KINDS: dict[str, dict[str, tuple[int, ...]]] = {  # suffixes and shapes, of a layer [16, 16]
    "lora": {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4), "alpha": ()},
    "dora": {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4), "alpha": (), "dora_scale": (16, 1)},
    "dora of inputs": {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4), "alpha": (), "dora_scale": (1, 16)},
    "loha": {"hada_w1_a": (16, 4), "hada_w1_b": (4, 16), "hada_w2_a": (16, 4), "hada_w2_b": (4, 16), "scalar": ()},
    "lokr": {"lokr_w1": (4, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4), "alpha": ()},
    "full": {"diff": (16, 16), "diff_b": (16,)},
    "glora": {"a1.weight": (16, 4), "a2.weight": (4, 16), "b1.weight": (16, 4), "b2.weight": (4, 16), "alpha": ()},
    "oft": {"oft_blocks": (4, 4, 4), "rescale": (16, 1), "alpha": ()},
    "boft": {"oft_blocks": (2, 4, 4, 4), "alpha": ()},
    "ia3": {"weight": (16,), "on_input": ()},
}
RULED = ("lora_down.weight", "hada_w1_a", "lokr_w1", "diff")  # kinds whose change is computed in `programs`


def _layer(kind: str, stem: str, seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    tensors = {f"{stem}.{suffix}": torch.randn(shape, generator=source) for suffix, shape in KINDS[kind].items()}
    if kind == "ia3":
        tensors[f"{stem}.on_input"] = torch.tensor(1)
    return tensors


def kohya_lora(folder: Path, number: int) -> Path:
    """A file of kohya or LyCORIS, with an embedding in it."""
    kind = list(KINDS)[number % len(KINDS)]
    tensors: dict[str, Tensor] = {}
    for seed, spellings in enumerate(LAYERS.values()):
        tensors |= _layer(kind, spellings[0], number + seed)
    tensors["bundle_emb.zork.string_to_param.*"] = torch.ones(2, 32)
    suffix = (".safetensors", ".safetensors", ".pt")[number % 3]
    header = {"ss_network_args": json.dumps({"preset": "full"}), "ss_output_name": "x", "ss_network_dim": "4"}
    return _save(folder / f"x{suffix}", tensors, header)


def dotted_lora(folder: Path, number: int) -> Path:
    """A file of OneTrainer, ComfyUI or diffusers, with or without diffusers' header."""
    kinds = ("lora", "dora", "dora of inputs", "loha", "lokr")
    spelling = 1 + number % 4
    tensors: dict[str, Tensor] = {}
    for seed, spellings in enumerate(LAYERS.values()):
        tensors |= _layer(kinds[number // 4 % len(kinds)], spellings[spelling], number + seed)
    header = {"ot_branch": "master", "modelspec.title": "x"}
    if spelling == 1 and number % 8 == 1:
        halves = (("lora_down", "lora_A"), ("lora_up", "lora_B"))
        tensors = {key: tensor for key, tensor in tensors.items() if key.endswith(("down.weight", "up.weight"))}
        for old, new in halves:
            tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
        fields = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "fc1"], "alpha_pattern": {"fc1": 2}}
        named = {f"unet.{name}": value for name, value in fields.items()}
        named |= {f"text_encoder.{name}": value for name, value in fields.items()}
        header = {"lora_adapter_metadata": json.dumps(named)}
    return _save(folder / ("x.pt" if number % 5 == 4 else "x.safetensors"), tensors, header)


def _save(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path, header)
    else:
        torch.save(tensors, path)
    return path


def check_lora(path: Path) -> None:
    """Étude's changes of the layers are those of the files' rule, and the LoRA can be written again."""
    _, opened = open_any(path)
    if opened.method != "lora":
        return
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    layers = by_layer(opened.tensors)
    facts = {"name": "x", "prediction": "epsilon"} | opened.facts | {"family": "sd1"}
    changes = {}
    for layer, factors in layers.items():
        if set(factors) != {"diff_b"}:
            changes[layer] = change(layer, factors, facts.get("alphas", {}).get(layer, facts["alpha"]), weight)
        if "diff_b" in factors:
            bias_change(layer, factors, torch.ones(16))
    for layer, factors in _in_file(path).items():
        if any(name in factors for name in RULED):
            assert layer in changes, f"{layer} is lost"
            with programs.asked():
                own = programs.lora_change(factors, weight)
            assert programs.is_near(changes[layer], own), f"another {layer}"
    artifact = Artifact("lora", opened.tensors, facts)
    for form in same_kind(artifact):
        load_format(form).write(artifact, Draft(path.parent / form))


def _in_file(path: Path) -> dict[str, dict[str, Tensor]]:
    """Layer → factors of a file, by kohya's suffixes, of layers with a spelling that programs know."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in programs.raw(path).items():
        for spelling, layer in OWN.items():
            if str(key).startswith(f"{spelling}."):
                suffix = str(key).removeprefix(f"{spelling}.")
                halves = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
                found.setdefault(layer, {})[halves.get(suffix, suffix)] = torch.as_tensor(tensor)
    return found


TARGETS = ["to_q", "to_k", "conv1"]
CONFIGS: tuple[Callable[[], Any], ...] = (
    lambda: LoraConfig(r=4, lora_alpha=3, target_modules=TARGETS, alpha_pattern={"to_q": 8}, rank_pattern={"to_k": 2}),
    lambda: LoraConfig(r=4, lora_alpha=3, target_modules=TARGETS, use_dora=True),
    lambda: LoraConfig(r=4, lora_alpha=3, target_modules=TARGETS, use_rslora=True),
    lambda: LoHaConfig(r=4, alpha=3, target_modules=TARGETS),
    lambda: LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    lambda: LoKrConfig(r=8, alpha=3, target_modules=TARGETS),
)


def _net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net()


def peft(folder: Path, number: int) -> Path:
    """A folder of PEFT for a `Net`."""
    net = _net()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        model = get_peft_model(net, CONFIGS[number % len(CONFIGS)]())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn_like(parameter) * 0.3
                if "magnitude" in name:
                    parameter.data = parameter.data.abs() + 0.5
        model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def check_peft(path: Path) -> None:
    """The weights are those that PEFT's own merge gives."""
    _, opened = open_any(path)
    before = {name: parameter.detach() for name, parameter in _net().named_parameters()}
    weights = dict(before)
    for layer, factors in by_layer(opened.tensors).items():
        name = layer.removeprefix("unet.")
        alpha = opened.facts.get("alphas", {}).get(layer, opened.facts["alpha"])
        if f"{name}.weight" not in before:
            return  # a layer that the model does not have; bases refuse it
        if set(factors) != {"diff_b"}:
            weights[f"{name}.weight"] = before[f"{name}.weight"] + change(
                layer, factors, alpha, before[f"{name}.weight"]
            )
        if "diff_b" in factors:
            weights[f"{name}.bias"] = before[f"{name}.bias"] + bias_change(layer, factors, before.get(f"{name}.bias"))
    with programs.asked():
        merged = programs.peft_weights(_net(), path)
    for name, weight in merged.items():
        assert programs.is_near(weights[name], weight), f"another {name} than PEFT's"
