"""Custom Diffusion: keys and values of the cross-attention, and a new word for each concept (Kumari et al., 2022).

arXiv:2212.04488. L = Σ m (ŷ - y)² / Σ m on views of the own pictures, where the mask m is 1 for cells that count,
+ λ · MSE on class images. Several concepts are learned together, or separately and merged in closed form (`merge.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from etude.core.families import text_rows
from etude.core.method import own_name

from .settings import Params

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etude.base.base import Base
    from etude.base.conditioning import Conditioning
    from etude.core.artifact import Artifact
    from etude.training.prior import Pair, Prior
    from etude.training.report import Report
    from etude.training.views import Views

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("adobe_delta", "webui_delta", "diffusers_custom_diffusion", "svd_lora")
axes = {"strength": 1.0}


def build(*, base: Base, views: Views, class_images: Prior | None, params: Params, report: Report) -> Artifact:
    """Train weights of the cross-attention, and the words' rows."""
    from etude.core.artifact import Artifact
    from etude.diffusion.hooks import added_tokens
    from etude.diffusion.weights import learning
    from etude.training import prior
    from etude.training.batches import Batches
    from etude.training.fit import fit
    from etude.training.updates import Group

    plan = params.training
    own = Batches(views.images, None, batch_size=plan.batch_size, seed=report.seed, device=str(base.device))
    size = params.prior_batch_size if params.prior_weight else 0
    pairs = prior.pairs(own, class_images, base, batch_size=size, clip_skip=params.clip_skip, folder=report.texts)
    rows = [_starts(base, concept.initializer) for concept in params.concepts.values()]
    named: dict[str, Tensor] = {}
    for i, word in enumerate(rows):
        named |= {f"words.{i}.{part}": row for part, row in zip(base.text_parts, word, strict=True)}
    read, facts = _reader(base, params, views), _facts(params, len(views.images.names))

    def loss(pair: Pair) -> Tensor:
        weights = params.cell_weights(pair.own.attention)
        return prior.preserving_loss(base, pair, read(pair), plan, params.prior_weight, weights)

    with ExitStack() as undo:
        weights = undo.enter_context(learning({"unet": base.unet}, params.trains))
        undo.enter_context(added_tokens(base, dict(zip(facts["words"], rows, strict=True))))
        undo.enter_context(_still_start(base.unet))
        learned = Artifact(METHOD, {**weights, **named}, facts, params.save)
        return fit([Group(weights), Group(named, params.word_rate)], loss, pairs, plan, report, learned)


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Replace weights (``strength`` 1; less: interpolate) and add the words; on exit both are undone exactly."""
    from etude.diffusion.hooks import added_tokens
    from etude.diffusion.weights import parameters_of, swapped

    parameters = parameters_of("unet", base.unet)
    weights = {name: tensor for name, tensor in artifact.tensors.items() if name.startswith("unet.")}
    for name in [name for name in weights if name.endswith(".delta")]:  # files of other programs contain differences
        whole, delta = name.removesuffix(".delta"), weights.pop(name)
        weights[whole] = parameters[whole].detach() + delta.to(parameters[whole]) if whole in parameters else delta
    words = {word: text_rows(artifact.tensors, f"words.{i}.") for i, word in enumerate(artifact.facts["words"])}
    with swapped(base, weights, strength), added_tokens(base, words):
        yield base


def _facts(params: Params, count: int) -> dict[str, Any]:
    """The artifact's facts: its words, the texts of their concepts, and settings for the export stage."""
    concepts = params.concepts.values()
    facts = {"words": [concept.word for concept in concepts], "prompts": [concept.worded() for concept in concepts]}
    return facts | {"name": params.name, "images": count, "compress": params.compress, "lora_rank": params.lora_rank}


def _starts(base: Base, words: str) -> list[Tensor]:
    """A row [1, d] float32 for each text encoder: that of a known word, or the mean of its tokens' rows."""
    rows = []
    for tokenizer, encoder in zip(base.tokenizers, base.text_encoders, strict=True):
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        row = encoder.get_input_embeddings().weight.detach()[ids].float().mean(dim=0, keepdim=True)
        rows.append(row.requires_grad_())
    return rows


@contextmanager
def _still_start(unet: nn.Module) -> Iterator[None]:
    """Within the block, key and value of the start token, the same in every prompt, get no gradient."""
    import torch

    def hold(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    with ExitStack() as undo:
        for name, module in unet.named_modules():
            if re.search(r"\.attn2\.to_[kv]$", name):
                undo.callback(module.register_forward_hook(hold).remove)
        yield


def _reader(base: Base, params: Params, views: Views) -> Callable[[Pair], Conditioning]:
    """The function that makes a pair's conditioning: for each view its concept's text, after a phrase for far or near;
    then the texts of the class images.
    """
    import torch

    from etude.base.conditioning import Conditioning
    from etude.base.text import encode_prompts

    openings = {"far": params.far, "near": params.near, "whole": [""]}

    def text(name: str) -> str:
        chosen = openings[views.kinds[name]]
        [place] = torch.randint(len(chosen), (1,)).tolist()
        return f"{chosen[place]} {params.concepts[name.partition('/')[0]].worded()}".strip()

    def read(pair: Pair) -> Conditioning:
        own_texts = encode_prompts(base, [text(name) for name in pair.own.names], params.clip_skip)
        class_texts = pair.prior.conditioning if pair.prior else None
        return Conditioning.cat([own_texts, *([class_texts] if class_texts else [])])

    return read
