"""The memory of a build on a GPU, counted by running the method's own code on tensors without values.

One step is counted, with a checkpoint after it, and the optimizer's states, which exist from the second step on. With
gradient release the second step is counted, because in the first, states are made while activations are freed. Not
counted: the CUDA context (about 0.5 GB), workspaces of cuDNN, fragmentation, and with several processes the gradients
that are sent at once (about 0.2 GB).

With ``device: cpu`` in the `Setup` the same build is counted on the CPU, where nothing waits elsewhere. Not counted
then: Python and its libraries, and freed memory that glibc's allocator keeps. `benchmarks.true_size` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
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
from etude.base.chunks import joined_length
from etude.base.conditioning import Conditioning
from etude.base.family import is_variation
from etude.base.latents import decode_latents
from etude.base.text import encode_prompts
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
from etude.training import average, batches, conditioning, updates
from etude.training.autocast import computing
from etude.training.batches import Captions, Images, Pictures
from etude.training.opening import opening
from etude.training.optimizer import Optimizer
from etude.training.plan import SavesMemory, TrainedWhole
from etude.training.preview import Preview, encode, encode_fixed, evaluating, preview_of
from etude.training.prior import Prior
from etude.training.report import Report
from etude.training.tags import UNCHANGED, HasTags
from etude.training.views import Views

if TYPE_CHECKING:
    from etude.training.preview import Texts

NAMES = tuple(f"{number}" for number in range(64))  # of pictures
SIZES = 6  # numbers that SDXL reads: original size, crop and target size


def count_build(method: Method, name: str, params: MethodParams, setup: Setup) -> Footprint:
    """Count the build of a method; raises UncountedError for a method that cannot be counted."""
    if not isinstance(params, SavesMemory):
        raise UncountedError(name, "it computes no gradients through the base's UNet")
    if isinstance(params, OwnBase) or _shows_pictures(setup.base):
        raise UncountedError(name, "it needs a base that is conditioned on pictures")
    params = params.shortest()
    if isinstance(params, HasTags):
        params = params.model_copy(update={"tags": UNCHANGED})  # variants are as long as the captions
    assert isinstance(params, MethodParams)
    preview = preview_of(params)
    with counting(setup.device) as counter, ExitStack() as undo:
        footprint, how = Footprint(), opening(params)
        undo.enter_context(patch.object(waiting, "bring", counter.bring))
        undo.enter_context(patch.object(waiting, "send", counter.send))
        undo.enter_context(patch.object(waiting, "free", counter.free))
        base = replace(how.prepare(empty_base(setup.base, setup.family, how)), reading=setup.reading)
        for part in how.waiting:
            for module in waiting.modules(base, part):
                counter.send(module)
        counter.restart()
        footprint.weights = counter.now
        host = _Host(counter, params, setup, base)
        data = {need: getattr(host, need)() for need in needs(method)}
        report = _Counting(Path(), 0, "cpu", {"fp16": "bf16"}.get(setup.precision, setup.precision))
        report.counter, report.footprint = counter, footprint
        report.prepared = partial(_discard_texts, base, report)
        if preview:
            texts = encode_fixed(base, preview, params, report.precision)
            report.drawing = report.preview = lambda: _draw(base, preview, params.word, report.precision, texts)
        undo.enter_context(patch.object(batches, "AHEAD", 0))  # in another thread, tensors would have values
        encode_texts = lambda base, captions, clip_skip, _: _encode(base, captions, clip_skip, counter)  # noqa: E731
        undo.enter_context(patch.object(conditioning, "encode_texts", encode_texts))
        report.releases = isinstance(params, TrainedWhole) and params.gradient_release
        undo.enter_context(patch.object(updates, "make_optimizer", report.optimizer))
        undo.enter_context(patch.object(weights, "to_host", counter.put_aside))
        undo.enter_context(patch.object(average, "to_host", lambda one: counter.put_aside(one.detach().clone())))
        AcceleratorState._reset_state(reset_partial_state=True)  # otherwise accelerate would refuse a second precision
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
    """What needs the most memory in a preview: a step with guidance for a row's pictures, then their decoding."""
    with evaluating(base), computing(base.device.type, precision):
        positives, negative = texts or encode(base, preview, word, precision)
        side = base.resolution // base.factor
        latents = torch.empty(len(preview.seeds), 4, side, side)
        decode_latents(base, guided(base, latents, torch.tensor(500), positives[0], negative, preview.guidance))
    return new_image("RGB", (side, side))  # any picture


@dataclass
class _Counting(Report):
    """A report that writes nothing, and reads the counter between steps."""

    counter: Counter = field(init=False)
    footprint: Footprint = field(init=False)
    drawing: Callable[[], Image] | None = None
    releases: bool = False

    def restore(self) -> dict[str, Any] | None:
        return None

    def clear(self, start: int, checkpoint: Callable[[int], bool], preview: Callable[[int], bool]) -> None:
        pass

    def keep(self, state: dict[str, Any]) -> None:
        self.footprint.previews = max(self.footprint.previews, self.counter.peak - self.footprint.stays)

    def log(self, step: int, loss: float, rate: float) -> None:
        found, peak = self.footprint, self.counter.peak
        self.counter.restart()
        if not found.optimizer:
            found.optimizer = self.counter.now - found.stays
        if step > 1 or not self.releases:  # includes what the optimizer makes only for its step
            found.activations = max(found.activations, peak - found.stays - found.gradients)

    def start(self, step: int, steps: int) -> None:
        self.footprint.start = self.counter.peak
        self.counter.restart()
        self.footprint.learned = self.counter.now - self.footprint.stays

    def optimizer(self, groups: Sequence[Sequence[Tensor]], settings: Optimizer) -> torch.optim.Optimizer:
        """An optimizer of the run, whose package need not be installed."""
        states, tensors = _STATES.get(settings.kind), [tensor for group in groups for tensor in group]
        made = _Counted(tensors, states) if states else _make_optimizer(groups, settings)
        if not self.releases:
            made.register_step_pre_hook(lambda *_: self._end_of_backward())
        return made

    def _end_of_backward(self) -> None:
        """Called before the first optimizer of a step: of the tensors that do not stay, only gradients are left."""
        if not self.footprint.gradients:
            self.footprint.gradients = self.counter.now - self.footprint.stays
            self.footprint.activations = self.counter.peak - self.counter.now
            self.counter.restart()

    def checkpoint(self, step: int, learned: Artifact | None) -> None:
        pass

    def draw(self, step: int) -> None:
        if not self.drawing:
            return
        self.counter.restart()
        self.drawing()
        self.footprint.previews = self.counter.peak - self.footprint.stays


def _discard_texts(base: Base, report: _Counting) -> None:
    """Free the text encoders as the stage does. On a CPU they were counted as weights, and are subtracted."""
    before = report.counter.now
    waiting.discard(base, "text")
    report.footprint.weights -= before - report.counter.now


_make_optimizer = updates.make_optimizer


class _Counted(torch.optim.Optimizer):
    """An optimizer that makes states as large as those of the package's optimizer, and changes nothing."""

    def __init__(self, tensors: Sequence[Tensor], states: Callable[[int], tuple[int, int]]) -> None:
        super().__init__(tensors, {"lr": 0.0})
        self.states = states

    def eval(self) -> None:
        """Do nothing: schedule-free training changes values in place here, which needs no memory."""

    train = eval

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the states, and the tensors that exist only within a step."""
        within = []
        for group in self.param_groups:
            for tensor in group["params"]:
                stays, passing = self.states(tensor.numel())
                self.state[tensor].setdefault("states", torch.empty(stays, dtype=torch.uint8))
                within.append(torch.empty(passing, dtype=torch.uint8))


def _eight_bit(values: int) -> tuple[int, int]:
    """Two states of one byte a value, each with a float32 for each 256 values; below 4,096 values, both in float32."""
    return (8 * values if values < 4096 else 2 * values + 8 * -(-values // 256)), 0


# For a number of values: the bytes of the states, and the further bytes that are needed within a step.
_STATES: Mapping[str, Callable[[int], tuple[int, int]]] = {
    "adamw8bit": _eight_bit,
    "prodigy": lambda values: (16 * values, 0),  # both averages, the values for its rate, and the start
    "schedule_free": lambda values: (8 * values, 4 * values),
}


def _encode(base: Base, captions: Captions, clip_skip: int, counter: Counter) -> Captions:
    """Replaces `conditioning.encode_texts`: it encodes one text; the encodings of all texts are on the host."""
    with torch.no_grad(), waiting.present(base, "text"):
        state = encode_prompts(base, [""], clip_skip).map(counter.put_aside)
    return Captions(captions.texts, dict.fromkeys(captions.texts, state), state)


@dataclass(frozen=True)
class _Host:
    """Makes inputs that are on the host; their number has no effect."""

    counter: Counter
    params: MethodParams
    setup: Setup
    base: Base

    def images(self, names: Sequence[str] = NAMES) -> Images:
        side = self.setup.resolution // 8
        moments = (self._empty(4, side, side),) * len(names)
        return Images(tuple(names), moments, moments)

    def captions(self) -> Captions | None:
        if isinstance(self.params, ReadsCaptions) and not self.params.reads_captions:
            return None
        return self._texts(NAMES)

    def class_images(self) -> Prior:
        return Prior(self.images(), self._texts(NAMES))

    def views(self) -> Views:
        assert isinstance(self.params, Concepts)
        images = self.images([f"{name}/a" for name in self.params.concepts])
        masks = tuple(mean[0] for mean in images.mean)
        return Views(replace(images, cells=masks), dict.fromkeys(images.names, "whole"))

    def pictures(self) -> Pictures:
        side = self.setup.resolution
        return Pictures(NAMES, (self._empty(side, side, 3, dtype=torch.uint8),) * len(NAMES))

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.counter.put_aside(torch.empty(*shape, dtype=dtype))

    def _texts(self, names: Sequence[str]) -> Captions:
        config, pooled = self.base.unet.config, None
        if FAMILIES[self.base.family].size_ids:
            width = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
            pooled = self._empty(1, width)
        places = joined_length(self.setup.chunks, self.setup.rule)
        state = Conditioning(self._empty(1, places, config.cross_attention_dim), pooled)
        return Captions({name: f"{self.params.name}, {name}" for name in names}, dict.fromkeys(names, state), state)
