"""Settings of a run that all methods share: how it computes, and what it reports. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.core.errors import ParamsError
from etude.core.params import Schema

Days = Annotated[int, Field(ge=0, le=3650)]
Tracker = Literal["tensorboard", "wandb", "mlflow"]  # also the names of their packages


class Compute(Schema):
    """How a build computes. A setting that the machine does not support has no effect, and a warning says so."""

    added_keys: ClassVar = {
        "deterministic": True,
        "channels_last": False,
        "tf32": False,
        "attention": "auto",
        "compile": False,
        "graphs": False,
    }

    deterministic: bool = Field(
        description="equal runs give the same bits; false: a GPU takes faster kernels, and last digits differ"
    )
    channels_last: bool = Field(description="the UNet's convolutions read pixel by pixel: faster on a GPU")
    tf32: bool = Field(description="a GPU multiplies float32 with 10 bits of fraction: faster, and less exact")
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        description="the kernel of attention on a GPU; auto: torch chooses"
    )
    compile: bool = Field(description="compile the UNet (torch.compile): minutes at the start, then faster steps")
    graphs: bool = Field(
        description="a GPU records the UNet's kernels once (CUDA graphs): faster steps with small batches, more memory"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.deterministic and self.attention == "cudnn":
            raise ValueError("`attention: cudnn` is not deterministic: write auto, or `deterministic: false`")
        return self


class RunParams(Schema):
    """The parts of params.yaml that a build reads, but that are no deps of it: another value causes no new build."""

    trackers: list[Tracker]
    keep_states: Days


def refuse_missing_trackers(kinds: Sequence[Tracker]) -> None:
    """Raise ParamsError if the package of a tracker is not installed."""
    for kind in kinds:
        if not find_spec(kind):
            fault = f"`trackers` has {kind}, which is not installed"
            raise ParamsError("params.yaml", fault, f"run `pip install {kind}`, or remove it from `trackers`")
