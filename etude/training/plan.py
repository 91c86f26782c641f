"""How a run moves its parameters: the ``training`` block of a method's params.yaml."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from etude.params import Schema

Rates = list[tuple[float, int | None]]  # (rate, last step it holds for; None: to the end)


class Optimization(Schema):
    """Optimizer, schedule and rhythm of one run. A step is one update of the parameters."""

    steps: PositiveInt
    batch_size: PositiveInt
    accumulation: PositiveInt = Field(description="batches whose gradients are averaged into one step")
    optimizer: Literal["adamw", "adamw8bit", "sgd"]
    learning_rate: PositiveFloat | str = Field(description="a number, or A1111's `0.005:100, 1e-3:1000`")
    schedule: Literal["constant", "cosine", "linear"] = Field(description="after the warm-up; down to 0 at the end")
    warmup_steps: NonNegativeInt
    weight_decay: NonNegativeFloat
    clip: NonNegativeFloat = Field(description="largest norm of all gradients together; 0: no clipping")
    ema: float = Field(ge=0, lt=1, description="decay of the average that is saved; 0: save the last weights")
    min_snr: NonNegativeFloat = Field(description="γ of Min-SNR weighting (arXiv:2303.09556); 0: off")
    noise_offset: NonNegativeFloat = Field(description="noise added to whole channels; 0: off")
    checkpoint_every: PositiveInt = Field(description="steps between published checkpoints; the last is always one")
    resume_every: PositiveInt = Field(description="steps between savings of the state a killed run goes on from")
    log_every: PositiveInt = Field(description="steps between points of the loss curve")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"`warmup_steps` {self.warmup_steps} is not below `steps` {self.steps}")
        rates = parse_rates(self.learning_rate)
        if len(rates) > 1 and (self.schedule != "constant" or self.warmup_steps):
            raise ValueError("`learning_rate` with steps needs `schedule: constant` and `warmup_steps: 0`")
        end = rates[-1][1]
        if end is not None and end < self.steps:
            raise ValueError(
                f"`learning_rate` ends at step {end}, before `steps` {self.steps}: add a last rate without a step"
            )
        return self

    def rate(self, step: int) -> float:
        """The learning rate of 0-based ``step``."""
        rates = parse_rates(self.learning_rate)
        held = next(rate for rate, until in rates if until is None or step < until)
        if step < self.warmup_steps:
            return held * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return held * falling[self.schedule]


def parse_rates(text: float | str) -> Rates:
    """A1111's schedule syntax: ``rate[:last_step]`` separated by commas; ``:-1`` means to the end.

    >>> parse_rates("0.005:100, 1e-3:1000, 1e-5")
    [(0.005, 100), (0.001, 1000), (1e-05, None)]
    """
    if isinstance(text, float | int):
        return [(float(text), None)]
    rates: Rates = []
    for segment in filter(None, (part.strip() for part in text.split(","))):
        rate, _, until = segment.partition(":")
        try:
            value, end = float(rate), int(until) if until.strip() else None
        except ValueError:
            raise ValueError(f"`learning_rate` has `{segment}`, which is not `rate` or `rate:last_step`") from None
        end = None if end == -1 else end
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`learning_rate` has `{segment}`: a rate is above 0")
        last = rates[-1][1] if rates else 0
        if last is None or (end is not None and end <= last):
            raise ValueError(f"`learning_rate` has `{segment}` after a segment that ends at {last or 'the end'}")
        rates.append((value, end))
    if not rates:
        raise ValueError("`learning_rate` is empty")
    return rates
