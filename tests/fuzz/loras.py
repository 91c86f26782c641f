"""LoRAs as programs write them, and whether Étude changes weights as these do.

The number of a file chooses among the forms that its format has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils.logging import CRITICAL, disable_progress_bar, set_verbosity

from etude.core.artifact import Artifact
from etude.core.errors import EtudeError
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
    "unet.mid_block.resnets.0.conv1": (
        "lora_unet_mid_block_resnets_0_conv1",
        "unet.mid_block.resnets.0.conv1",
        "unet.middle_block.0.in_layers.2",
        "diffusion_model.middle_block.0.in_layers.2",
        "lora_unet.mid_block.resnets.0.conv1",
    ),
    "unet.mid_block.resnets.0.norm1": ("lora_unet_mid_block_resnets_0_norm1",),
}
CONV, NORM = list(LAYERS)[2:]
SHAPES = {CONV: (12, 8, 3, 3), NORM: (8,)}  # of weights; of the others: [16, 16]
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
CONVS: dict[str, dict[str, tuple[int, ...]]] = {  # of a convolution [12, 8, 3, 3]
    "lora": {"lora_down.weight": (4, 8, 3, 3), "lora_up.weight": (12, 4, 1, 1), "alpha": ()},
    "dora": {
        **{"lora_down.weight": (4, 8, 1, 1), "lora_mid.weight": (4, 4, 3, 3), "lora_up.weight": (12, 4, 1, 1)},
        **{"alpha": (), "dora_scale": (12, 1, 1, 1)},
    },
    "dora of inputs": {
        **{"lora_down.weight": (4, 8, 3, 3), "lora_up.weight": (12, 4, 1, 1), "alpha": ()},
        "dora_scale": (1, 8, 1, 1),
    },
    "loha": {
        **{"hada_w1_a": (4, 12), "hada_w1_b": (4, 8), "hada_t1": (4, 4, 3, 3), "hada_w2_a": (4, 12)},
        **{"hada_w2_b": (4, 8), "hada_t2": (4, 4, 3, 3), "alpha": ()},
    },
    "lokr": {"lokr_w1": (2, 2), "lokr_w2_a": (2, 6), "lokr_w2_b": (2, 4), "lokr_t2": (2, 2, 3, 3), "alpha": ()},
    "full": {"diff": (12, 8, 3, 3)},
    "glora": {
        **{"a1.weight": (8, 4, 1, 1), "a2.weight": (4, 8, 1, 1), "b1.weight": (12, 4, 1, 1)},
        **{"b2.weight": (4, 8, 3, 3), "alpha": ()},
    },
    "oft": {"oft_blocks": (3, 4, 4)},
    "boft": {"oft_blocks": (1, 3, 4, 4), "rescale": (12, 1, 1, 1), "alpha": ()},
    "ia3": {"weight": (1, 8, 1, 1), "on_input": ()},
}
RULED = ("lora_down.weight", "hada_w1_a", "lokr_w1", "diff", "a1.weight", "oft_blocks", "weight", "w_norm")


def _layer(kind: str, layer: str, spelling: int, seed: int) -> dict[str, Tensor]:
    """A layer's tensors under their names in a file; a norm has the same whole differences in each kind."""
    shapes = (CONVS if layer == CONV else KINDS)[kind]
    shapes = {"w_norm": SHAPES[NORM], "b_norm": SHAPES[NORM]} if layer == NORM else shapes
    source, stem = torch.Generator().manual_seed(seed), LAYERS[layer][spelling]
    tensors = {f"{stem}.{suffix}": torch.randn(shape, generator=source) for suffix, shape in shapes.items()}
    if "on_input" in shapes:
        tensors[f"{stem}.on_input"] = torch.tensor(seed % 2 if shapes["weight"] == (16,) else 1)
    return tensors


def _chosen(number: int) -> list[str]:
    """The layers in the file of a number: two linear ones, one and a convolution, and so on."""
    linear = [layer for layer in LAYERS if layer not in SHAPES]
    return [linear, [linear[0], CONV], [CONV, linear[1]]][number % 3]


def kohya_lora(folder: Path, number: int) -> Path:
    """A file of kohya or LyCORIS, with an embedding in it."""
    kind = list(KINDS)[number % len(KINDS)]
    form = number // len(KINDS)
    layers = [*_chosen(form), *([NORM] if kind == "full" else [])]
    tensors: dict[str, Tensor] = {}
    for seed, layer in enumerate(layers):
        tensors |= _layer(kind, layer, 0, number + seed)
    tensors["bundle_emb.zork.string_to_param.*"] = torch.randn(2, 32)
    header = {"ss_network_args": json.dumps({"preset": "full"}), "ss_output_name": "x", "ss_network_dim": "4"}
    if form % 2:
        algorithms = {"dora": "lora", "dora of inputs": "lora", "oft": "diag-oft"}
        names = {"algo": algorithms.get(kind, kind), "conv_dim": "4", "dora_wd": str("dora" in kind)}
        header |= {"ss_network_args": json.dumps(names), "ss_network_module": "lycoris.kohya"}
    return _save(folder / ("x.pt" if form % 4 == 2 else "x.safetensors"), tensors, header)


def dotted_lora(folder: Path, number: int) -> Path:
    """A file of OneTrainer, ComfyUI or diffusers, without PEFT's configuration."""
    kinds = ("lora", "dora", "dora of inputs", "loha", "lokr")
    spelling, form = 1 + number % 4, number // 4
    kind = kinds[form % len(kinds)]
    tensors: dict[str, Tensor] = {}
    for seed, layer in enumerate(_chosen(form // len(kinds))):
        tensors |= _layer(kind, layer, spelling, number + seed)
    types = {"loha": "LOHA", "lokr": "LOKR"}
    config = {"peft_type": types.get(kind, "LORA"), "lora_decompose": "dora" in kind, "lora_rank": 4}
    header = {"ot_branch": "master", "modelspec.title": "x"} | ({"ot_config": json.dumps(config)} if form % 2 else {})
    return _save(folder / ("x.pt" if number % 5 == 4 else "x.safetensors"), tensors, header)


def _save(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path, header)
    else:
        torch.save(tensors, path)
    return path


def check_lora(path: Path) -> None:
    """Étude's changes of the layers are those of the files' rule, also after the LoRA was written in any format."""
    _, opened = open_any(path)
    assert opened.method == "lora", f"read as {opened.method}"
    facts = {"name": "x", "prediction": "epsilon"} | opened.facts | {"family": "sd1"}
    changes = _changes(opened.tensors, facts)
    found = _in_file(path)
    for layer, factors in found.items():
        weight = _weight(layer)
        wanted = {}
        if any(name in factors for name in RULED):
            with programs.asked():
                wanted[layer] = programs.lora_change(factors, weight)
        for name in ("diff_b", "b_norm"):
            if name in factors:
                wanted[f"{layer} bias"] = factors[name].float()
        for name, own in wanted.items():
            assert name in changes, f"{name} is lost"
            assert programs.is_near(changes[name], own), f"another {name}"
    for word, rows in _bundled(path).items():
        assert word in facts["words"], f"{word} is lost"
        read = opened.tensors[f"words.{facts['words'].index(word)}.text_encoder"]
        assert programs.is_near(read.float(), rows), f"other rows of {word}"
    artifact = Artifact("lora", opened.tensors, facts)
    for form in same_kind(artifact):
        try:
            written = load_format(form).write(artifact, Draft(path.parent / form))
        except EtudeError:
            continue  # a form that cannot hold it
        folder = len(written) > 1  # of PEFT: <name>/<part>/<file>
        again = open_any(written[0].parents[1] if folder else written[0])[1]
        for name, changed in _changes(again.tensors, again.facts).items():
            assert programs.is_near(changed, changes[name]), f"another {name} after it was written as {form}"


def _weight(layer: str) -> Tensor:
    return torch.randn(SHAPES.get(layer, (16, 16)), generator=torch.Generator().manual_seed(1))


def _changes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Étude's changes of weights and biases, by the names of layers."""
    changes = {}
    for layer, factors in by_layer(tensors).items():
        weight = _weight(layer)
        if set(factors) != {"diff_b"}:
            changes[layer] = change(layer, factors, facts.get("alphas", {}).get(layer, facts["alpha"]), weight)
        if "diff_b" in factors:
            changes[f"{layer} bias"] = bias_change(layer, factors, torch.ones(len(weight)))
    return changes


def _bundled(path: Path) -> dict[str, Tensor]:
    """Word → rows of A1111's embeddings in a LoRA's file."""
    names = {str(key): tensor for key, tensor in programs.raw(path).items()}
    start, end = "bundle_emb.", ".string_to_param.*"
    inside = {key: tensor for key, tensor in names.items() if key.startswith(start) and key.endswith(end)}
    return {
        key.removeprefix(start).removesuffix(end): tensor.float().reshape(-1, tensor.shape[-1])
        for key, tensor in inside.items()
    }


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
    before = {f"unet.{name}": parameter.detach() for name, parameter in _net().named_parameters()}
    weights = _merged(before, opened)
    if weights is None:
        return
    with programs.asked():
        merged = programs.peft_weights(_net(), path)
    for name, weight in merged.items():
        assert programs.is_near(weights[f"unet.{name}"], weight), f"another {name} than PEFT's"


def _merged(before: Mapping[str, Tensor], opened: Artifact) -> dict[str, Tensor] | None:
    """The weights with Étude's changes; None if there is a layer that the model does not have: bases refuse it."""
    weights = dict(before)
    for layer, factors in by_layer(opened.tensors).items():
        name, alpha = f"{layer}.weight", opened.facts.get("alphas", {}).get(layer, opened.facts["alpha"])
        if name not in before:
            return None
        if set(factors) != {"diff_b"}:
            weights[name] = before[name] + change(layer, factors, alpha, before[name])
        if "diff_b" in factors:
            bias = before.get(f"{layer}.bias")
            weights[f"{layer}.bias"] = bias_change(layer, factors, bias) + before.get(f"{layer}.bias", torch.zeros(1))
    return weights


class _DiffusersNet(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The network as a model of diffusers."""

    config_name = "config.json"

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.mid_block = Net().mid_block


def _models() -> tuple[Any, Any]:
    disable_progress_bar()
    set_verbosity(CRITICAL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1}
        return _DiffusersNet(), CLIPTextModel(CLIPTextConfig(**sizes))


LEARNED = {  # layers as diffusers names them, with the sizes of their factors
    f"unet.mid_block.attentions.0.{ATTENTION}": ((16,), (16,)),
    "unet.mid_block.resnets.0.conv1": ((8, 3, 3), (12, 1, 1)),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": ((16,), (16,)),
}


def diffusers_lora(folder: Path, number: int) -> Path:
    """diffusers' file with PEFT's configuration in its header, or, of old versions, without."""
    source = torch.Generator().manual_seed(number)
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "conv1", "q_proj"]}
    fields |= [{"alpha_pattern": {"q_proj": 2, "to_q": 3}}, {"use_dora": True}, {"use_rslora": True}, {}][number % 4]
    tensors = {}
    for full, (in_sizes, out_sizes) in LEARNED.items():
        tensors[f"{full}.lora_A.weight"] = torch.randn(4, *in_sizes, generator=source)
        tensors[f"{full}.lora_B.weight"] = torch.randn(out_sizes[0], 4, *out_sizes[1:], generator=source)
        if "use_dora" in fields and full.startswith("unet."):  # in a text encoder transformers 5.23 loses lengths
            lengths = torch.rand(out_sizes[0], generator=source) + 0.5
            tensors[f"{full}.lora_magnitude_vector"] = lengths.reshape(1, -1, 1, 1) if "conv" in full else lengths
    named = {f"unet.{name}": value for name, value in fields.items()}
    named |= {f"text_encoder.{name}": value for name, value in fields.items() if name != "use_dora"}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(named)}
    if number % 8 == 3:
        header = {"format": "pt"}
        halves = {"proj.lora_A": "proj.lora_linear_layer.down", "proj.lora_B": "proj.lora_linear_layer.up"}
        halves |= {"lora_A": "lora.down", "lora_B": "lora.up"}
        for new, old in halves.items():
            tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return _save(folder / "pytorch_lora_weights.safetensors", tensors, header)


def check_diffusers_lora(path: Path) -> None:
    """The weights are those of diffusers' models, after it has loaded the file."""
    _, opened = open_any(path)
    assert opened.method == "lora", f"read as {opened.method}"
    before: dict[str, Tensor] = {}
    for part, model in zip(("unet", "text_encoder"), _models(), strict=True):
        names = {name.removeprefix("text_model."): parameter for name, parameter in model.named_parameters()}
        before |= {f"{part}.{name}": parameter.detach() for name, parameter in names.items()}
    weights = _merged(before, opened)
    if weights is None:
        return
    with programs.asked():
        merged = programs.diffusers_weights(*_models(), path)
    for name, weight in merged.items():
        assert programs.is_near(weights[name], weight), f"another {name} than diffusers'"
