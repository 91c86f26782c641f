"""The memory of a build on a GPU, counted by running the method's own code on tensors without values.

One step is counted, with a checkpoint after it; from the second on the optimizer's states are there too. Not counted:
the CUDA context (about 0.5 GB), workspaces of cuDNN, and fragmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from etude.base import waiting
from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.family import is_variation
from etude.base.latents import decode_latents
from etude.base.settings import ClassPictures
from etude.core.artifact import Artifact
from etude.core.families import FAMILIES
from etude.core.method import Method, needs
from etude.core.mixins import Concepts, OwnBase, ReadsCaptions
from etude.core.model_folders import read_config
from etude.core.params import MethodParams
from etude.diffusion import weights
from etude.diffusion.sample import guided
from etude.memory.base import empty_base
from etude.memory.counter import Counter, counting
from etude.memory.footprint import Footprint, Setup, UncountedError
from etude.training import average, fit
from etude.training.augmentation import HasViews
from etude.training.batches import Captions, Images, Pictures
from etude.training.opening import opening
from etude.training.plan import Optimization, SavesMemory
from etude.training.preview import Preview, computing, encode, encode_fixed, evaluating, preview_of
from etude.training.prior import Prior
from etude.training.report import Report
from etude.training.views import Views

if TYPE_CHECKING:
    from etude.training.preview import Texts

TOKENS = 77  # of a text
SIZES = 6  # numbers that SDXL reads: original size, crop and target size


def count_build(method: Method, name: str, params: MethodParams, setup: Setup) -> Footprint:
    """Count the build of a method; raises UncountedError for one that this cannot count."""
    if not isinstance(params, SavesMemory):
        raise UncountedError(name, "it computes no gradients through the base's UNet")
    if isinstance(params, OwnBase) or _shows_pictures(setup.base):
        raise UncountedError(name, "it needs a base that is conditioned on pictures")
    params = params.shortest()
    assert isinstance(params, MethodParams)
    preview = preview_of(params)
    with counting() as counter, ExitStack() as undo:
        footprint, how = Footprint(), opening(params)
        undo.enter_context(patch.object(waiting, "bring", counter.bring))
        undo.enter_context(patch.object(waiting, "send", counter.send))
        base = how.prepare(empty_base(setup.base, setup.family, how))
        for part in how.waiting:
            for module in waiting.modules(base, part):
                counter.send(module)
        counter.restart()
        footprint.weights = counter.now
        data = {need: _DATA[need](params, setup, base) for need in needs(method)}
        footprint.data = counter.now - footprint.weights
        report = _Counting(Path(), 0, "cpu", {"fp16": "bf16"}.get(setup.precision, setup.precision))
        report.counter, report.footprint = counter, footprint
        if preview:
            texts = encode_fixed(base, preview, params, report.precision)
            report.drawing = report.preview = lambda: _draw(base, preview, params.word, report.precision, texts)
        undo.enter_context(patch.object(fit, "_optimizer", report.optimizer))
        undo.enter_context(patch.object(weights, "_to_host", counter.put_aside))
        undo.enter_context(patch.object(average, "_to_host", lambda one: counter.put_aside(one.detach().clone())))
        AcceleratorState._reset_state(reset_partial_state=True)  # else a second precision would be refused
        undo.callback(AcceleratorState._reset_state, reset_partial_state=True)
        method.build(base=base, **data, params=params, report=report)
    return footprint


def _shows_pictures(base: Path) -> bool:
    """Whether a base is conditioned on pictures: an unCLIP one, or one of image variations."""
    if not base.is_dir():
        return False
    return is_variation(base) or bool(read_config(base / "unet" / "config.json").get("class_embed_type"))


@torch.no_grad()
def _draw(base: Base, preview: Preview, word: str, precision: str, texts: Texts | None) -> Image:
    """What a preview holds at most: a step with guidance of all pictures at once, then their decoding."""
    with evaluating(base), computing(base, precision):
        positive, negative = texts or encode(base, preview, word, precision)
        side = base.resolution // base.factor
        latents = torch.empty(len(preview.seeds), 4, side, side)
        decode_latents(base, guided(base, latents, torch.tensor(500), positive, negative, preview.guidance))
    return new_image("RGB", (side, side))  # any


@dataclass
class _Counting(Report):
    """A report that writes nothing, and reads the counter between steps."""

    counter: Counter = field(init=False)
    footprint: Footprint = field(init=False)
    drawing: Callable[[], Image] | None = None

    def restore(self) -> dict[str, Any] | None:
        return None

    def keep(self, state: dict[str, Any]) -> None:
        self.footprint.previews = max(self.footprint.previews, self.counter.peak - self.footprint.stays)

    def log(self, step: int, loss: float, rate: float) -> None:
        if not self.footprint.activations:  # a loop of its own, without torch's optimizers
            self.footprint.activations = self.counter.peak - self.footprint.stays
        self.counter.restart()
        self.footprint.optimizer = self.counter.now - self.footprint.stays

    def start(self, step: int, steps: int) -> None:
        self.footprint.start = self.counter.peak
        self.counter.restart()
        self.footprint.learned = self.counter.now - self.footprint.stays

    def optimizer(self, groups: Sequence[fit.Group], plan: Optimization) -> torch.optim.Optimizer:
        """The optimizer of the run, which need not be installed; before its first step the gradients are there."""
        tensors = [tensor for group in groups for tensor in group.parameters.values()]
        made = _EightBit(tensors) if plan.optimizer == "adamw8bit" else _make_optimizer(groups, plan)
        self.footprint.gradients = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        made.register_step_pre_hook(lambda *_: self._end_of_backward())
        return made

    def _end_of_backward(self) -> None:
        self.footprint.activations = self.counter.peak - self.footprint.stays - self.footprint.gradients

    def checkpoint(self, step: int, learned: Artifact | None) -> None:
        pass

    def draw(self, step: int) -> None:
        if not self.drawing:
            return
        self.counter.restart()
        self.drawing()
        self.footprint.previews = self.counter.peak - self.footprint.stays


_make_optimizer = fit._optimizer


class _EightBit(torch.optim.Optimizer):
    """The states of bitsandbytes' AdamW8bit: two bytes a value, and a float32 for each block of 256 in both of them.

    Small tensors (below 4,096 values) have states in float32 there.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__(tensors, {"lr": 0.0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the states."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if not self.state[tensor]:
                    small = tensor.numel() < 4096
                    size = 8 * tensor.numel() if small else 2 * tensor.numel() + 8 * -(-tensor.numel() // 256)
                    self.state[tensor]["states"] = torch.empty(size, dtype=torch.uint8)


def _images(params: MethodParams, setup: Setup, base: Base) -> Images:
    return _moments([f"{number}" for number in range(setup.pictures)], setup)


def _moments(names: Sequence[str], setup: Setup) -> Images:
    side = setup.resolution // 8
    mean = tuple(torch.empty(4, side, side) for _ in names)
    logvar = tuple(torch.empty(4, side, side) for _ in names)
    return Images(tuple(names), mean, logvar)


def _captions(params: MethodParams, setup: Setup, base: Base) -> Captions | None:
    if isinstance(params, ReadsCaptions) and not params.reads_captions:
        return None
    names = [f"{number}" for number in range(setup.pictures)]
    encoded = {name: _text(base) for name in names}
    return Captions({name: f"{params.name}, {name}" for name in names}, encoded, _text(base))


def _text(base: Base) -> Conditioning:
    config = base.unet.config
    if not FAMILIES[base.family].size_ids:
        return Conditioning(torch.empty(1, TOKENS, config.cross_attention_dim))
    pooled = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
    return Conditioning(torch.empty(1, TOKENS, config.cross_attention_dim), torch.empty(1, pooled))


def _class_images(params: MethodParams, setup: Setup, base: Base) -> Prior:
    """Those that the base draws; real ones, of other image sets, are not counted."""
    assert isinstance(params, ClassPictures)
    prompts = params.class_images.prompts
    encoded = {prompt: _text(base) for prompt in prompts}
    texts = {f"{number}": prompts[number % len(prompts)] for number in range(params.class_images.count)}
    captions = Captions(texts, {name: encoded[text] for name, text in texts.items()}, _text(base))
    return Prior(_moments(list(texts), setup), captions)


def _views(params: MethodParams, setup: Setup, base: Base) -> Views:
    assert isinstance(params, Concepts)
    assert isinstance(params, HasViews)
    side, names = setup.resolution // 8, []
    for name in params.concepts:
        for number in range(setup.pictures * max(params.augmentation.views, 1)):
            names.append(f"{name}/{number}")
    masks = {name: torch.empty(1, side, side) for name in names}
    return Views(_moments(names, setup), masks, dict.fromkeys(names, "whole"))


def _pictures(params: MethodParams, setup: Setup, base: Base) -> Pictures:
    names = tuple(f"{number}" for number in range(setup.pictures))
    return Pictures(names, tuple(torch.empty(setup.resolution, setup.resolution, 3, dtype=torch.uint8) for _ in names))


_DATA: Mapping[str, Callable[[MethodParams, Setup, Base], Any]] = {
    "images": _images,
    "captions": _captions,
    "class_images": _class_images,
    "views": _views,
    "pictures": _pictures,
}
