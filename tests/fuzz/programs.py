"""What the programs that a file is made for read from it: the measure of what Étude reads.

diffusers and PEFT are asked themselves. Where a program is none that is installed here, its rule is written anew, from
the descriptions of the formats and not from Étude's readers.
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as single_files
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

ROWS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


class OwnRefusal(Exception):  # noqa: N818
    """A file's own program does not read it: it raised the cause."""


@contextmanager
def asked() -> Iterator[None]:
    """Inside, what a file's own program raises becomes an OwnRefusal."""
    try:
        yield
    except Exception as error:
        raise OwnRefusal(f"{type(error).__name__}: {error}") from error


def raw(path: Path) -> Any:
    """What is in a file of weights, or in the dictionary around it that pytorch-lightning writes."""
    if path.suffix.lower() == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([torch.nn.ParameterDict, set]):
        data = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    return data


def lora_change(factors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """W' - W by the factors of one layer as kohya's and LyCORIS' files hold them."""
    f, weight = {name: tensor.double() for name, tensor in factors.items()}, weight.double()
    alpha = float(f["alpha"]) if "alpha" in f else None
    rank = 1.0
    if "diff" in f or "w_norm" in f:
        delta, alpha = f["diff" if "diff" in f else "w_norm"], None
    elif "lora_down.weight" in f:
        rank = len(f["lora_down.weight"])
        delta = f["lora_up.weight"].flatten(1) @ f["lora_down.weight"].flatten(1)
        if "lora_mid.weight" in f:
            delta = _tucker(f["lora_mid.weight"], f["lora_up.weight"].flatten(1).T, f["lora_down.weight"].flatten(1))
    elif "hada_w1_a" in f:
        rank = len(f["hada_w1_b"])
        one, other = ((f[f"hada_{name}_a"], f[f"hada_{name}_b"]) for name in ("w1", "w2"))
        if "hada_t1" in f:
            delta = _tucker(f["hada_t1"], *one) * _tucker(f["hada_t2"], *other)
        else:
            delta = (one[0] @ one[1]) * (other[0] @ other[1])
    elif "a1.weight" in f:
        rank = len(f["a2.weight"])
        a1, a2, b1, b2 = (f[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
        each = [part @ a1 @ a2 for part in weight.reshape(*weight.shape[:2], -1).unbind(-1)]  # of the kernel's places
        delta = torch.stack(each, -1).flatten(1) + b1 @ b2
    elif "oft_blocks" in f:
        return _rotated(f, alpha or 0.0, weight) - weight
    elif "weight" in f:
        shape = [1, -1] if bool(f["on_input"]) else [-1, 1]
        return weight * f["weight"].reshape(*shape, *[1] * (weight.ndim - 2))
    else:
        rank, first, halves = len(f["lokr_w2_b"]), f["lokr_w1"], (f["lokr_w2_a"], f["lokr_w2_b"])
        second = _tucker(f["lokr_t2"], *halves) if "lokr_t2" in f else halves[0] @ halves[1]
        delta = torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second)
    scale = 1.0 if alpha is None else alpha / rank
    changed = weight + delta.reshape(weight.shape) * scale * float(f.get("scalar", torch.tensor(1.0)))
    if "dora_scale" in f:
        lengths = f["dora_scale"]
        axis = 1 if lengths.ndim > 1 and lengths.shape[0] == 1 else 0  # [1, in] is of columns, else of rows
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        others = [place for place in range(weight.ndim) if place != axis]
        changed = changed * lengths.reshape(shape) / changed.pow(2).sum(others, keepdim=True).sqrt()
    return changed - weight


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Σ left[r, o] core[r, s, …] right[s, i]."""
    kernels = [left.T @ part @ right for part in core.flatten(2).unbind(-1)]
    return torch.stack(kernels, -1).reshape(left.shape[1], right.shape[1], *core.shape[2:])


def _rotated(f: Mapping[str, Tensor], bound: float, weight: Tensor) -> Tensor:
    """W turned by the transpose of OFT's block-diagonal matrix, or by each of BOFT's on permuted rows, then scaled."""
    blocks = f["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    if bound > 0 and skew.norm() > bound * len(weight):
        skew = skew * bound * len(weight) / skew.norm()
    one = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
    matrices = (one + skew) @ torch.linalg.inv(one - skew)
    turned = weight.flatten(1)
    for stage, parts in enumerate(matrices if matrices.ndim == 4 else matrices.transpose(1, 2)[None]):
        rows = torch.arange(len(weight))
        if matrices.ndim == 4:
            rows = rows.reshape(-1, 2, 2**stage * (blocks.shape[-1] // 2)).transpose(1, 2).flatten()
        result = torch.empty_like(turned)
        result[rows] = torch.block_diag(*parts) @ turned[rows]
        turned = result
    return turned.reshape(weight.shape) * f.get("rescale", torch.ones(1)).reshape(-1, *[1] * (weight.ndim - 1))


def peft_weights(net: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The weights of ``net`` after PEFT has merged the adapter in a folder into it."""
    merged = PeftModel.from_pretrained(net, str(folder)).merge_and_unload()
    return {name: parameter.detach() for name, parameter in merged.named_parameters()}


def diffusers_weights(net: Any, text_encoder: Any, path: Path) -> dict[str, Tensor]:
    """Part and name → the weights after diffusers has loaded a LoRA into both and PEFT has merged it."""
    loader: Any = diffusers.loaders.StableDiffusionLoraLoaderMixin
    state, alphas, metadata = loader.lora_state_dict(
        str(path.parent), weight_name=path.name, use_safetensors=True, return_lora_metadata=True
    )
    loader.load_lora_into_unet(state, alphas, net, metadata=metadata)
    loader.load_lora_into_text_encoder(state, alphas, text_encoder, "text_encoder", metadata=metadata)
    found = {}
    for part, model in {"unet": net, "text_encoder": text_encoder}.items():
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                found[f"{part}.{name.replace('.base_layer', '').removeprefix('text_model.')}"] = parameter.detach()
    return found


def embedding_rows(path: Path) -> dict[str, Tensor]:
    """Text encoder → rows [n, d] as A1111 and kohya take them from an embedding's file."""
    data = _picture_data(path) if path.suffix.lower() == ".png" else raw(path)
    if "string_to_param" in data:
        words = data["string_to_param"]
        (rows,) = getattr(words, "_parameters", words).values()
        found = {"text_encoder": rows}
    elif "clip_g" in data:
        found = {part: data[key] for part, key in ROWS.items()}
    else:
        (rows,) = data.values()
        found = {"text_encoder": rows}
    return {part: rows.float().reshape(-1, rows.shape[-1]) for part, rows in found.items()}


def _picture_data(path: Path) -> Any:
    """The dictionary in the text of a picture. Without a text, the pixels hold the same, or nothing."""
    with Image.open(path) as image:
        image.load()
        text = image.info.get("sd-ti-embedding") or path.with_suffix(".text").read_text()
    return json.loads(base64.b64decode(text), object_hook=_tensor)


def _tensor(value: dict[str, Any]) -> Any:
    return torch.tensor(value["TORCHTENSOR"]) if "TORCHTENSOR" in value else value


def delta_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in files of Custom Diffusion (Adobe's, diffusers', the web UI's) and of aesthetic gradients.

    By Étude's names: `unet.<parameter>` and, for a difference, `.delta`.
    """
    data = raw(path)
    if isinstance(data, Tensor):
        return {"embedding": data.float()}
    found: dict[str, Tensor] = {}
    if path.suffix.lower() == ".safetensors":
        with safe_open(str(path), framework="pt") as opened:
            entries = json.loads(opened.metadata()["json"])["entries"]
        for name, kind in entries.items():
            own = name.removeprefix("model.diffusion_model.").replace("middle_block.1.", "mid_block.attentions.0.")
            whole = data[name].float() if kind == "delta" else data[f"{name}.US"].float() @ data[f"{name}.Vh"].float()
            found[f"unet.{own}.delta"] = whole
        return found
    for number, (_, row) in enumerate(data.get("modifier_token", {}).items()):
        found[f"words.{number}.text_encoder"] = row.float().reshape(1, -1)
    for name, value in data.get("unet", data).items():
        if isinstance(value, Tensor):
            found[f"unet.{name.replace('processor.to_k_custom_diffusion', 'to_k')}"] = value.float()
        elif value:
            found[f"unet.{name}.delta"] = value["u"].float() @ value["v"].float()
    return found


def hypernetworks(data: dict[Any, Any]) -> dict[str, nn.Sequential]:
    """``<width>.<k or v>`` → the Sequential that A1111 makes of a hypernetwork's file; all keys must fit."""
    found = {}
    for width, states in data.items():
        if not isinstance(width, int):
            continue
        for side, state in zip("kv", states, strict=True):
            sequential = nn.Sequential(OrderedDict(linear=a1111_sequential(width, data)))
            sequential.load_state_dict(state)
            found[f"{width}.{side}"] = sequential.eval()
    return found


def a1111_sequential(width: int, data: Mapping[Any, Any]) -> nn.Sequential:
    """The Sequential that A1111 builds for a width, written from its description in the notes on methods."""
    structure, kind = data.get("layer_structure") or [1, 2, 1], data.get("activation_func")
    dropout = data.get("dropout_structure") or [0] * len(structure)
    if not data.get("dropout_structure") and data.get("use_dropout"):
        dropout = [0, *[0.3] * (len(structure) - 3), 0.3 if data.get("last_layer_dropout") else 0, 0]
    members: list[nn.Module] = []
    kinds = {"swish": nn.Hardswish, "relu": nn.ReLU, "mish": nn.Mish, "prelu": nn.PReLU}
    for i in range(len(structure) - 1):
        members.append(nn.Linear(int(width * structure[i]), int(width * structure[i + 1])))
        if kind not in ("linear", None) and (i < len(structure) - 2 or data.get("activate_output", True)):
            members.append(kinds[kind]())
        if data.get("is_layer_norm", False):
            members.append(nn.LayerNorm(int(width * structure[i + 1])))
        if dropout[i + 1] > 0:
            members.append(nn.Dropout(dropout[i + 1]))
    return nn.Sequential(*members)


def single_parts(path: Path, configs: Path, family: str) -> dict[str, dict[str, Tensor]]:
    """Part → tensors in diffusers' names of a single file, by diffusers' own conversion."""
    data = raw(path)
    found = {}
    for part in ("unet", "vae"):
        config = json.loads((configs / part / "config.json").read_text())
        convert = {"unet": single_files.convert_ldm_unet_checkpoint, "vae": single_files.convert_ldm_vae_checkpoint}
        found[part] = convert[part](dict(data), config)
    if family != "sd2":
        prefix = "conditioner.embedders.0.transformer." if family == "sdxl" else None
        found["text_encoder"] = single_files.convert_ldm_clip_checkpoint(dict(data), remove_prefix=prefix)
    opened = {
        "sd2": ("text_encoder", "cond_stage_model.model."),
        "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
    }
    if family in opened:
        part, prefix = opened[family]
        kind = CLIPTextModel if family == "sd2" else CLIPTextModelWithProjection
        model = kind.from_pretrained(configs / part)
        found[part] = single_files.convert_open_clip_checkpoint(model, dict(data), prefix=prefix)
    return found


def draw_of(part: str, model: Any) -> list[Tensor]:
    """What a part of a model computes for fixed inputs."""
    source = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source)

    with torch.no_grad():
        if part == "vae":
            return [model.decode(noise(1, 4, 4, 4)).sample, model.encode(noise(1, 3, 32, 32)).latent_dist.parameters]
        if part == "unet":
            width = model.config.cross_attention_dim
            added = None
            if model.config.addition_embed_type:
                pooled = model.config.projection_class_embeddings_input_dim - 6 * model.config.addition_time_embed_dim
                added = {"text_embeds": noise(1, pooled), "time_ids": torch.full((1, 6), 64.0)}
            text = noise(1, 77, width if isinstance(width, int) else width[0])
            return [model(noise(1, 4, 8, 8), 500, text, added_cond_kwargs=added).sample]
        output = model(torch.arange(77)[None] % 50, output_hidden_states=True)
        return [
            *output.hidden_states,
            output.last_hidden_state,
            *([output.text_embeds] if "text_embeds" in output else []),
        ]


def part_of_diffusers(folder: Path, part: str) -> Any:
    """A part of a folder, as diffusers and transformers load it in float32."""
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    kind = kinds.get(part, CLIPTextModelWithProjection)
    return kind.from_pretrained(folder / part, dtype=torch.float32, local_files_only=True).eval()


def schedule_of_diffusers(folder: Path) -> tuple[Tensor, str]:
    """ᾱ and what the UNet predicts by the scheduler in a folder, of the class that it names."""
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    scheduler = getattr(diffusers, config["_class_name"]).from_pretrained(folder / "scheduler")
    return scheduler.alphas_cumprod, scheduler.config.prediction_type


def is_near(one: Tensor, other: Tensor) -> bool:
    """Whether two results are equal within the rounding of float32; also infinite or NaN in the same places."""
    one, other = one.double(), other.double()
    if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
        return False
    finite = other[other.isfinite()]
    largest = max(float(finite.abs().max()), 1e-6) if finite.numel() else 1.0
    return torch.allclose(one, other, rtol=0, atol=1e-4 * largest, equal_nan=True)
