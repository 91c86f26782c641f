"""The optimizer of a run: its settings, and the packages that some kinds need. Nothing here imports torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.core.errors import ParamsError
from etude.core.params import Scale, Schema

# The package that a kind needs, which the extra `gpu` installs; the other kinds need none.
PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}
Decay = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Schema):
    """The optimizer: how weights change after each step, given their gradients. Its kinds:

    - adamw (Loshchilov and Hutter, 2019, arXiv:1711.05101);
    - adamw8bit: AdamW with states of 8 bits (Dettmers et al., 2022, arXiv:2110.02861);
    - adafactor (Shazeer and Stern, 2018, arXiv:1804.04235): it keeps no average of the gradient, and of the squared
      gradient only the averages over rows and columns. The learning rate is used as it is written, as in kohya's
      scripts and OneTrainer;
    - prodigy: it finds the learning rate (Mishchenko and Defazio, 2024, arXiv:2306.06101);
    - schedule_free: AdamW that averages its weights, where others lower the learning rate (Defazio et al., 2024,
      arXiv:2405.15682);
    - sgd: without momentum.
    """

    added_keys: ClassVar = {"betas": [0.9, 0.999], "eps": 1e-8}

    kind: Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedule_free", "sgd"]
    betas: list[Decay] = Field(
        min_length=2, max_length=2, description="decay of the averages of the gradient and of its square"
    )
    eps: float = Field(gt=0, le=1, description="added to the divisor of an update")
    weight_decay: Scale

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "schedule_free" and not self.betas[0]:
            raise ValueError("`betas` begins with 0, by which schedule_free divides: write 0.9")
        return self


def refuse_missing(optimizer: Optimizer, path: Path) -> None:
    """Raise ParamsError, which names the params file ``path``, if the kind needs a package that is not installed."""
    package = PACKAGES.get(optimizer.kind)
    if package and not find_spec(package):
        fault = f"`training.optimizer.kind: {optimizer.kind}` needs {package}, which is not installed"
        raise ParamsError(path, fault, "run `make setup EXTRAS=gpu`, or set the kind to adamw or adafactor")
