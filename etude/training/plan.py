"""The settings of a training run: the ``training`` block of a method's params.yaml."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.core.params import Count, Rate, Scale, Schema, Steps
from etude.training.exclusions import exclusions
from etude.training.optimizer import Optimizer

MOST = 1000  # most checkpoints of a run, because each is drawn and measured
FASTEST = 100
SEGMENT = re.compile(r"((?:\d{1,20}\.?\d{0,20}|\.\d{1,20})(?:[eE][+-]?\d{1,3})?) *(?:: *(-1|\d{1,9})?)?", re.ASCII)
Rates = list[tuple[float, int | None]]  # (rate, its last step; None: to the end)


class Optimization(Schema):
    """Optimizer, schedule and save intervals of one run. A step is one update of the parameters."""

    added_keys: ClassVar = {"ema_every": 1}
    former_keys: ClassVar = {"optimizer": "optimizer.kind", "weight_decay": "optimizer.weight_decay"}

    steps: Steps
    batch_size: Count
    accumulation: Count = Field(description="batches whose gradients are averaged into one step")
    optimizer: Optimizer = Field(description="turns gradients into changes of what is trained")
    learning_rate: Rate | str = Field(description="a number, or A1111's `0.005:100, 1e-3:1000`")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        description="of the learning rate after the warm-up; down to 0 at the end"
    )
    warmup_steps: int = Field(ge=0, le=10_000_000)
    clip: Scale = Field(description="largest norm of all gradients together; 0: no clipping")
    ema: float = Field(ge=0, lt=1, description="decay of the average that is saved; 0: save the last weights")
    ema_every: Steps = Field(description="steps between updates of that average, which is on the host")
    min_snr: Scale = Field(description="γ of Min-SNR weighting (arXiv:2303.09556); 0: off")
    noise_offset: float = Field(ge=0, le=1, description="noise added to whole channels; 0: off")
    checkpoint_every: Steps = Field(description="steps between published checkpoints; the last step always has one")
    resume_every: Steps = Field(description="steps between saves of the state from which a killed run resumes")
    log_every: Steps = Field(description="steps between points of the loss curve")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"`warmup_steps` {self.warmup_steps} is not below `steps` {self.steps}")
        if self.steps > MOST * self.checkpoint_every:
            raise ValueError(f"`checkpoint_every` {self.checkpoint_every} makes more than {MOST} checkpoints")
        rates = parse_rates(self.learning_rate)
        if len(rates) > 1 and (self.schedule != "constant" or self.warmup_steps):
            raise ValueError("`learning_rate` with more than one rate needs `schedule: constant` and `warmup_steps: 0`")
        end = rates[-1][1]
        if end is not None and end < self.steps:
            raise ValueError(
                f"`learning_rate` ends at step {end}, before `steps` {self.steps}: add a last rate without a step"
            )
        return self

    def rate(self, step: int) -> float:
        """The learning rate of 0-based ``step``."""
        rates = parse_rates(self.learning_rate)
        base_rate = next(rate for rate, until in rates if until is None or step < until)
        if step < self.warmup_steps:
            return base_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return base_rate * falling[self.schedule]


class SavesMemory(Schema):
    """A method whose build computes gradients through the base's UNet, with the switches that save memory."""

    added_keys: ClassVar = {"base_precision": "fp32", "recompute": False}

    base_precision: Literal["fp32", "fp16", "bf16"] = Field(description="of the base's frozen weights")
    recompute: bool = Field(description="activations of the UNet are computed twice; elsewhere: gradient checkpointing")

    def shortest(self) -> Self:
        """The same build with the fewest steps that need as much memory as all steps."""
        raise NotImplementedError


class Trained(SavesMemory):
    """A method that is trained in steps and saves checkpoints."""

    training: Optimization

    def shortest(self) -> Self:
        """One step. The learning rate is one number, because an A1111 schedule might end before that step."""
        return self._shortened(1)

    def _shortened(self, steps: int) -> Self:
        few = {"steps": steps, "log_every": 1, "checkpoint_every": steps, "resume_every": steps, "warmup_steps": 0}
        training = self.training.model_copy(update={**few, "learning_rate": 1})
        return self.model_copy(update={"training": training})

    @model_validator(mode="after")
    def _together(self) -> Self:
        if faults := [f"{fault}; {action}" for fault, action in exclusions(self)]:
            raise ValueError("; ".join(faults))
        return self

    def excluded(self, shared: Schema) -> Iterator[tuple[str, str]]:
        """The settings in these parameters and the project's that exclude each other, and what to do."""
        return exclusions(self, shared)


class TrainedWhole(Trained):
    """A method that trains all weights of a part of the base. It has two more switches that save memory."""

    added_keys: ClassVar = {"trained_precision": "fp32", "gradient_release": False}

    trained_precision: Literal["fp32", "bf16"] = Field(
        description="of the weights that are trained; bf16 is rounded at random, so that small changes count on average"
    )
    gradient_release: bool = Field(
        description="each weight is changed as soon as its gradient is computed, and the gradient is freed at once"
    )

    def shortest(self) -> Self:
        """Two steps with gradient release: in the first, optimizer states are made while activations are freed."""
        return self._shortened(2 if self.gradient_release else 1)


def parse_rates(text: float | str) -> Rates:
    """A1111's schedule syntax: ``rate[:last_step]`` separated by commas; ``:-1`` means to the end.

    >>> parse_rates("0.005:100, 1e-3:1000, 1e-5")
    [(0.005, 100), (0.001, 1000), (1e-05, None)]
    """
    if isinstance(text, float | int):
        return [(float(text), None)]
    rates: Rates = []
    for segment in filter(None, (part.strip() for part in text.split(","))):
        match = SEGMENT.fullmatch(segment)
        if not match:
            raise ValueError(f"`learning_rate` has `{segment}`, which is not `rate` or `rate:last_step`")
        value, end = float(match[1]), None if match[2] in (None, "-1") else int(match[2])
        if not 0 < value <= FASTEST:
            raise ValueError(f"`learning_rate` has `{segment}`: a rate is above 0, and at most {FASTEST}")
        last = rates[-1][1] if rates else 0
        if last is None or (end is not None and end <= last):
            until = f"step {last}" if last else "the end"
            raise ValueError(f"`learning_rate` has `{segment}` after a rate that already holds until {until}")
        rates.append((value, end))
    if not rates:
        raise ValueError("`learning_rate` is empty")
    return rates
