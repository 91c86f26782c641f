"""Short runs of any method on a tiny base: what the tests of this folder share."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.text import encode_prompts
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.files import sha256_tree
from etude.core.method import Input, load_method, needs
from etude.core.params import MethodParams, read_yaml, validate
from etude.diffusion.sample import generate
from etude.training.augmentation import Kind
from etude.training.batches import Captions, Images, Pictures
from etude.training.preview import draw
from etude.training.prior import Prior
from etude.training.report import Report
from etude.training.views import Views
from tests.shipped import held

SHORT = {"steps": 6, "batch_size": 2, "checkpoint_every": 3, "resume_every": 1, "log_every": 2, "warmup_steps": 0}


def params_of(method: str, training: dict[str, Any] | None = None, **changes: Any) -> MethodParams:
    """The method's params as they are shipped, with a short run (if it is one that runs) and what is named changed.

    The word is one of the captions of `image_set`, and of the prompt of `picture`. A name of several words stays: other
    params have to fit it.
    """
    values = read_yaml(held(f"pipelines/{method}/params.yaml"))
    values |= {} if " " in values["name"] else {"name": "otter"}
    if "training" in values:
        values |= {"training": values["training"] | SHORT | (training or {})}
    if "preview" in values:
        values["preview"] = values["preview"] | {"steps": 2, "seeds": [0]}
    if "learning" in values:
        fewer = {"steps": 6, "batch_size": 2, "seeds": [0], "resume_every": 1, "log_every": 2}
        drawing = values["learning"]["drawing"] | {"steps": 2}
        prompts = {letter: prompts[:2] for letter, prompts in values["learning"]["prompts"].items()}
        values["learning"] = values["learning"] | fewer | {"drawing": drawing, "prompts": prompts}
    if "optimization" in values:
        values |= {"steps": 6, "optimization": values["optimization"] | {"inner_steps": 2}}
    return validate(values | changes, load_method(method).Params, held(f"pipelines/{method}/params.yaml"))


def on_tiny(method: str, folder: Path) -> dict[str, Any]:
    """What a method's params name of the tiny base in ``folder``, and what else goes at random switched on."""
    changes: dict[str, dict[str, Any]] = {
        "aesthetic_gradient": {"clip": str(folder / "clip"), "text": "red cat", "learning_rate": 0.03},
        "clip_inversion": {"noise_level": 300, "pull": 0.1, "guidance": 2.0, "templates": ["[filewords]", "a [name]"]},
        "dreambooth": {"templates": ["[name]", "a [name]"], "text_encoder_rate": 0.5},
        "fine_tuning": {"caption_dropout": 0.5, "text_encoder_rate": 0.5},
        "hypernetwork": {"caption_dropout": 0.5, "dropout": [0, 0.3, 0]},
    }
    return changes.get(method, {})


def image_set(base: Base) -> dict[str, Any]:
    """Three random pictures' latents, in float64 for a base in float64, and captions of them."""
    side = base.resolution // 8
    generator = torch.Generator().manual_seed(5)
    mean = tuple(_at_least_float32(base, torch.randn(4, side, side, generator=generator)) for _ in range(3))
    texts = {"a": "noto otter", "b": "flat otter on a red background", "c": "otter"}
    encoded = {name: encode_prompts(base, [text]) for name, text in texts.items()}
    captions = Captions(texts, encoded, encode_prompts(base, [""]))
    logvar = tuple(torch.full_like(tensor, -6.0) for tensor in mean)
    images = Images(("a", "b", "c"), mean, logvar)
    shown = pictures([(8 * side, 8 * side)] * 3)
    return {"images": images, "captions": captions, "pictures": shown} | {
        "views": views(images),
        "class_images": class_images(base),
    }


def _at_least_float32(base: Base, tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(base.dtype, torch.float32))


def pictures(sizes: Sequence[tuple[int, int]] = ((64, 64), (40, 56), (32, 32))) -> Pictures:
    """Three random pictures, large and small."""
    generator = torch.Generator().manual_seed(7)
    return Pictures(
        ("a", "b", "c"), tuple(torch.randint(256, (*s, 3), generator=generator, dtype=torch.uint8) for s in sizes)
    )


def views(images: Images, name: str = "concept") -> Views:
    """The pictures as views of an image set: one far, with a part that counts, one near and one whole."""
    names = tuple(f"{name}/{picture}-000" for picture in images.names)
    masks = tuple(torch.ones_like(mean[0]) for mean in images.mean)
    masks[0][:3] = 0
    kinds: tuple[Kind, ...] = ("far", "near", "whole")
    own = Images(names, images.mean, images.logvar, images.attention, masks)
    return Views(own, dict(zip(names, kinds, strict=True)))


def class_images(base: Base) -> Prior:
    """Random latents in the place of what the base draws of a class."""
    side = base.resolution // 8
    generator = torch.Generator().manual_seed(6)
    mean = tuple(_at_least_float32(base, torch.randn(4, side, side, generator=generator)) for _ in range(4))
    logvar = tuple(torch.full_like(tensor, -6.0) for tensor in mean)
    names = tuple(f"drawn/{number}" for number in range(4))
    encoded = encode_prompts(base, ["bear"])
    captions = Captions(dict.fromkeys(names, "bear"), dict.fromkeys(names, encoded), encode_prompts(base, [""]))
    return Prior(Images(names, mean, logvar), captions)


def squared_errors(base: Base, mean: Tensor, logvar: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """(ε_θ(√ᾱ z + √(1-ᾱ) ε, t, text) - ε)² [b, 4, h, w], as the papers write it, and ᾱ [b, 1, 1, 1].

    z, ε and t are the next that torch's generator draws.
    """
    z = (mean + (0.5 * logvar).exp() * torch.randn_like(mean)) * base.scaling_factor
    ε, t = torch.randn_like(z), torch.randint(1000, (len(texts),))
    ᾱ = base.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    hidden = encode_prompts(base, texts).hidden
    return (base.unet(ᾱ.sqrt() * z + (1 - ᾱ).sqrt() * ε, t, encoder_hidden_states=hidden).sample - ε).square(), ᾱ


def parents(base: Base, folder: Path) -> dict[str, Input]:
    """Two artifacts of whole weights, a and b, as fine-tuning and DreamBooth leave them: other weights of attention."""
    found = {}
    for number, letter in enumerate("ab"):
        generator = torch.Generator().manual_seed(number)
        chosen = {f"unet.{n}": p for n, p in base.unet.named_parameters() if "attn2.to_" in n}
        noise = {name: p.std() * torch.randn(p.shape, generator=generator) for name, p in chosen.items()}
        tensors = {name: chosen[name] + noise[name] for name in chosen}
        path = folder / letter / "artifact.safetensors"
        artifacts.save(Artifact("fine_tuning", tensors, {"name": "otter", "family": base.family}), path)
        found[letter] = Input(path.parent, sha256_tree(path.parent))
    return found


def learn(
    method: str, base: Base, params: MethodParams, scratch: Path, *, precision: str = "fp32", kill_at: int = 0
) -> Artifact:
    """Build; with ``kill_at`` the process dies without warning after that step."""

    class Dying(Report):
        def advance(self, done: int) -> None:
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    report = Dying(scratch, seed=3, device="cpu", precision=precision)
    preview: Any = getattr(params, "preview", None)
    if preview:
        report.preview = lambda: draw(base, preview, params.name, report.precision)
    module = load_method(method)
    data = image_set(base) | ({"models": parents(base, scratch / "models")} if "models" in needs(module) else {})
    built: Artifact = module.build(base=base, params=params, report=report, **{n: data[n] for n in needs(module)})
    return built


def picture(base: Base, prompt: str = "noto otter", **settings: Any) -> Tensor:
    """What the base draws now, uint8 [1, H, W, 3]."""
    asked = {"negative": "", "seeds": [1], "steps": 2, "guidance": 3.0, "sampler": "ddim"} | settings
    return generate(base, [prompt], **asked)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether there are exactly these tensors, by name and value."""
    return set(found) == set(expected) and all(torch.equal(found[name], tensor) for name, tensor in expected.items())
