"""The setup of a count of memory, and its result. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etude.base.settings import Text
from etude.core.errors import EtudeError


class UncountedError(EtudeError):
    """A method whose build is not counted, with the reason."""

    def __init__(self, method: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            method, f"its memory is not counted: {reason}", "start the build, and watch how much memory it uses"
        )


@dataclass(frozen=True)
class Setup:
    """The setup that a build is counted for."""

    base: Path  # where it is, or will be
    family: str
    resolution: int  # of the pictures, in px
    precision: str  # fp32, fp16 or bf16
    chunks: int = 1  # of every text
    rule: Literal["a1111", "kohya"] = "a1111"  # by which chunks are joined
    device: Literal["cuda", "cpu"] = "cuda"  # whose kernels compute; on the CPU nothing waits elsewhere

    @property
    def reading(self) -> Text:
        """How texts are read; weights in prompts are left out, because they need no memory."""
        return Text(chunks=self.chunks, rule=self.rule, emphasis="none")


@dataclass
class Footprint:
    """Bytes on the device, by purpose."""

    weights: int = 0  # of the base
    learned: int = 0  # what training adds: factors, copies
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0  # of a step, and everything else that exists only within it
    previews: int = 0  # what drawing them needs in addition to what stays
    start: int = 0  # peak before training: texts are encoded, by encoders that are freed afterwards

    @property
    def stays(self) -> int:
        """Bytes that are in use all the time."""
        return self.weights + self.learned + self.optimizer

    @property
    def peak(self) -> int:
        """The most bytes in use at once."""
        return max(self.start, self.stays + max(self.gradients + self.activations, self.previews))
