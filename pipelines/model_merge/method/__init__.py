"""Model merge: several models in one, by a formula that is applied to each weight.

Artifacts of other methods are merged on the base with which they were trained; whole checkpoints and LoRAs can be
merged too. No pictures are needed: if the formula's weights are learned, the models themselves are the teachers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from etude.core.families import text_parts
from etude.core.method import own_name

from .settings import Params

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.core.method import Input
    from etude.training.report import Report

    from .merging.engine import Merge
    from .merging.sources import Model, Weights

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("ldm_checkpoint", "diffusers_checkpoint", "kohya_lora", "diffusers_lora")
axes = {"strength": 1.0}


def build(*, base: Base, models: Mapping[str, Input], params: Params, report: Report) -> Artifact:
    """Merge, tensor by tensor, from files to a file, so that memory is limited; learning needs the whole UNet first."""
    from dataclasses import replace

    from etude.base.base import DTYPES
    from etude.core.artifact import Artifact
    from etude.core.method import Input

    from .merging import engine
    from .merging.recipe import record
    from .merging.results import as_checkpoint, as_lora
    from .merging.sources import open_base, open_model, open_vae

    below = open_base(base.path)
    baked = open_vae(models["vae"].path, base.path, base.family) if "vae" in models else {}
    opened = {}
    for name, model in models.items():
        if name != "vae":
            opened[name] = open_model(model.path, below, base.family, without_vae=bool(baked))
    ordered = _rebased(base, opened) if params.rebasin else [model.weights for model in opened.values()]
    parents = [replace(model, weights=weights) for model, weights in zip(opened.values(), ordered, strict=True)]
    merge = engine.make(params, ordered, below, DTYPES[params.save], report.seed)
    if params.learns:
        merge = replace(merge, learned=_learned(merge, params, base, parents, report))
    facts: dict[str, Any] = {"name": params.name, "metadata": record(params, models, Input(base.path, ""))}
    if params.result == "lora":
        tensors, lora_facts = as_lora(merge, params, parents, below, report)
        return Artifact(METHOD, tensors, facts | lora_facts | {"formats": ["kohya_lora", "diffusers_lora"]})
    tensors = as_checkpoint(merge, params, parents, baked, below, report)
    return Artifact(METHOD, tensors, facts | {"formats": ["ldm_checkpoint", "diffusers_checkpoint"]})


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """The base with the merged weights: W + ``strength`` · (W' - W); on exit, the weights are exactly as before."""
    from etude.diffusion.hooks import replaced_weights, to_host
    from etude.diffusion.weights import parameters_of, parts_of, swapped

    from .merging.low_rank import Fused

    tensors: Mapping[str, Tensor] = artifact.tensors
    if "rank" in artifact.facts:
        own = {n: p.detach() for part, m in parts_of(base).items() for n, p in parameters_of(part, m).items()}
        tensors = {name: to_host(tensor) for name, tensor in Fused(artifact.tensors, artifact.facts, own).items()}
        del own  # it would keep the weights on the GPU
    vae = {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("vae.")}
    with replaced_weights(base.vae, vae, strength), swapped(base, rest, strength):
        yield base


def _rebased(base: Base, models: Mapping[str, Model]) -> list[Weights]:
    """The weights of every model; hidden units of all others are reordered to match those of the first."""
    from etude.base.single import config_folder
    from etude.core.model_folders import read_config

    from .merging.rebasin import Rebased, block_counter

    configs = config_folder(base.path, base.family) if base.path.is_file() else base.path
    texts = {part: read_config(file) for part in text_parts() if (file := configs / part / "config.json").exists()}
    blocks = block_counter(read_config(configs / "unet" / "config.json"), texts)
    first, *others = (model.weights for model in models.values())
    return [first, *(Rebased(first, other, blocks) for other in others)]


def _learned(merge: Merge, params: Params, base: Base, models: Sequence[Model], report: Report) -> Weights:
    """Learned weights of task arithmetic for the channels of the UNet, using the merge's own text encoders."""
    from etude.base.loading import load_base

    from .merging.learning import learn
    from .merging.results import names_of

    merged, kept = names_of(models, params.parts)
    texts = {name: merge.wide(name) for name in merged if name.partition(".")[0] in text_parts()}
    texts |= {name: merge.models[0][name] for name in kept if name.partition(".")[0] in text_parts()}
    whole = load_base(base.path, device=base.device, parts=("unet", "text"), reading=base.reading)
    return learn(whole, models, texts, params.weights, params.learning, report)
