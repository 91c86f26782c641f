"""What a long run saves: its two newest states, and its averaged weights in pieces small enough to copy."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from etude.core.errors import InputError, TrainingError
from etude.core.files import atomic_path, replace_folder
from etude.core.tensors import read_tensors, write_tensors
from etude.training.report import CONSOLE, Report

FOLDER = Path(".scratch/miniature/long_run")
PUBLISHED = Path("models/miniature/unet/diffusion_pytorch_model.safetensors")
KEPT = 2  # states: the older one is used if the newer one cannot be read
PIECE = 15 * 2**20  # bytes of weights in a piece, which keeps the file below 16 MB


class TimeUpError(Exception):
    """The minutes that a run was given have passed, and its state is saved."""


@dataclass
class Rolling(Report):
    """A report that saves its two newest states in ``scratch``, and ends the run when its time is up."""

    pictures: int = 0  # per step, for the throughput
    until: float | None = None  # a value of time.monotonic(); None: no end
    _clock: tuple[int, float] = field(default=(0, 0.0))

    def restore(self) -> dict[str, Any] | None:
        """The newest readable state, or None if there are no states; raises TrainingError if none is readable."""
        files = states(self.scratch)
        for file in reversed(files):
            try:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
                CONSOLE.print(f"{file} cannot be read ({error}); trying the one before", highlight=False)
                continue
            self.history = [(int(step), float(loss), float(rate)) for step, loss, rate in state.pop("history")]
            return state
        if files:
            raise TrainingError(
                self.scratch,
                "none of the saved states in it can be read",
                "move these files away to train from the start",
            )
        return None

    def start(self, step: int, steps: int) -> None:
        """Print where the run begins."""
        super().start(step, steps)
        self._clock = (step, time.monotonic())

    def log(self, step: int, loss: float, rate: float) -> None:
        """Add a point to the curve; print it with the time and the pictures per second."""
        self.history.append((step, loss, rate))
        before, then = self._clock
        self._clock = (step, time.monotonic())
        speed = (step - before) * self.pictures / (self._clock[1] - then)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        told = f"{now} step {step}: loss {loss:.4f}, learning rate {rate:.3g}, {speed:.1f} pictures a second"
        CONSOLE.print(told, highlight=False, soft_wrap=True)

    def keep(self, state: dict[str, Any]) -> None:
        """Save the state atomically and delete all but the newest two; raises TimeUpError when the time is up."""
        with atomic_path(self.scratch / f"state-{state['step']:07d}.pt") as temporary:
            torch.save({**state, "history": self.history}, temporary)
        for old in states(self.scratch)[:-KEPT]:
            old.unlink()
        if self.until is not None and time.monotonic() > self.until:
            raise TimeUpError


def states(folder: Path) -> list[Path]:
    """The saved states, the newest last."""
    return sorted(file for file in folder.glob("state-*.pt") if re.fullmatch(r"state-\d+\.pt", file.name))


@dataclass(frozen=True)
class Learned:
    """Averaged weights by name, the number of steps, and the mean of the last losses."""

    weights: dict[str, Tensor]
    steps: int
    loss: float


def averaged(folder: Path, names: Sequence[str]) -> Learned:
    """The averaged weights of the newest state, whose parameters are ``names``; raises InputError without a state."""
    report = Rolling(folder, 0, "cpu", "fp32")
    state = report.restore()
    if state is None:
        raise InputError(folder, "holds no state of a long run", "start one: `python -m miniature.long_run`")
    curve = [loss for _, loss, _ in report.history[-20:]]
    weights = dict(zip(names, state["average"], strict=True))
    return Learned(weights, int(state["step"]), round(sum(curve) / max(len(curve), 1), 5))


def write_pieces(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write ``folder/pieces``: the weights in float16, in files below 16 MB, to be copied to another machine."""
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        half = tensor.detach().to("cpu", torch.float16)
        size += half.nbytes
        if size > PIECE:
            pieces.append({})
            size = half.nbytes
        pieces[-1][name] = half
    with replace_folder(folder / "pieces") as made:
        for number, piece in enumerate(pieces):
            write_tensors(made / f"{number}.safetensors", piece, {"pieces": str(len(pieces))})


def read_pieces(folder: Path) -> dict[str, Tensor]:
    """The weights that ``write_pieces`` wrote, else the published ones; raises InputError if a piece is missing."""
    files = sorted((folder / "pieces").glob("*.safetensors")) or [PUBLISHED]
    weights: dict[str, Tensor] = {}
    count = str(len(files))
    for file in files:
        tensors, metadata = read_tensors(file)
        of = metadata.get("pieces", "1")  # the published file is one whole
        if of != count:
            raise InputError(
                file.parent,
                f"holds {count} pieces, but {file.name} is one of {of}",
                "copy all pieces of one run there",
            )
        weights |= tensors
    return weights
