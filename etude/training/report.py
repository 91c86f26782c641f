"""The output of a training run: checkpoints, previews, the loss curve, and the state from which a killed run resumes.

During the run, all of it is written below ``scratch``; when the run has ended, the stage moves it to its outs. So the
outs never contain half a run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import TrainingError
from etude.core.files import atomic_path
from etude.core.memory import is_out_of_memory
from etude.training.curve import Curve, Point
from etude.training.processes import RANK, is_main
from etude.training.trackers import Trackers

if TYPE_CHECKING:
    from etude.training.start import Start

CONSOLE = Console(stderr=True)
FINISHED = "finished"  # a file beside the state of a run that has ended, with its number of steps


@dataclass
class Report:
    """One run's settings and its folder of results.

    ``preview`` draws a picture with the model in its present state; the task sets it, or leaves it None.
    ``prepared`` is called once, before the first step: what only the preparation used can be freed.
    """

    scratch: Path
    seed: int
    device: str  # "cpu" or "cuda"
    precision: str  # fp32, fp16 or bf16
    preview: Callable[[], Image.Image] | None = None
    preview_every: int = 0  # steps; 0: at each checkpoint
    prepared: Callable[[], None] = lambda: None
    watch: Path | None = None  # folder to which each preview is also copied at once, for people to look at
    curve: Curve | None = None  # files with the points so far
    trackers: Trackers | None = None
    beginning: Start | None = None  # what training continues from
    history: list[Point] = field(default_factory=list)
    _bar: Progress | None = None

    @property
    def folder(self) -> Path:
        """The folder of the results: ``checkpoints/``, ``previews/`` and ``training/``."""
        return self.scratch / "results"

    @property
    def texts(self) -> Path:
        """The folder of texts that this process encodes for the run."""
        return self.scratch / f"texts-{os.environ.get(RANK, '0')}"

    @property
    def _previews(self) -> Path:
        return self.folder / "previews"

    @property
    def _state(self) -> Path:
        return self.scratch / "state.pt"

    @property
    def _finished(self) -> Path:
        return self.scratch / FINISHED

    def restore(self) -> dict[str, Any] | None:
        """The saved state of this run, or None; raises TrainingError if it cannot be read."""
        if not self._state.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self._state, map_location="cpu", weights_only=True)
            self.history = [(int(step), float(loss), float(rate)) for step, loss, rate in state.pop("history")]
        except (RuntimeError, OSError, EOFError, ValueError, LookupError, UnpicklingError) as error:
            fault = f"cannot be read ({type(error).__name__}): it is damaged"  # torch's own text has many lines
            raise TrainingError(self._state, fault, f"delete {self.scratch} to start again") from error
        return state

    @property
    def finished(self) -> int:
        """The steps of the run that has ended in this folder, whose state is kept; 0: none has ended."""
        return int(self._finished.read_text(encoding="utf-8")) if self._finished.exists() else 0

    def clear(self, start: int, checkpoint: Callable[[int], bool], preview: Callable[[int], bool]) -> None:
        """Delete the results of an earlier run, for a run that begins after ``start`` steps.

        Checkpoints and previews stay if ``checkpoint`` and ``preview`` hold for their steps.
        """
        self._finished.unlink(missing_ok=True)
        if not start:
            self._state.unlink(missing_ok=True)
        for folder, holds in (("checkpoints", checkpoint), ("previews", preview)):
            for path in self.folder.glob(f"{folder}/*"):
                if path.stem.isdecimal() and not holds(int(path.stem)):
                    path.unlink()

    def keep(self, state: dict[str, Any]) -> None:
        """Save the state atomically."""
        with atomic_path(self._state) as temporary:
            torch.save({**state, "history": self.history}, temporary)

    def start(self, step: int, steps: int) -> None:
        """Print at which step the run begins; ``step`` above 0: it resumes from a saved state."""
        if not is_main():
            return
        if self.curve:
            self.curve.restart(self.history)
        CONSOLE.print(f"resumed at step {step} of {steps}" if step else f"starting, {steps} steps", highlight=False)
        if CONSOLE.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=CONSOLE, transient=True)
            self._bar.start()
            self._bar.add_task("training", total=steps, completed=step)

    def advance(self, done: int) -> None:
        """Move the progress bar."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def log(self, step: int, loss: float, rate: float) -> None:
        """Add a point to the curve: the mean loss since the last point, and the learning rate at ``step``."""
        self.history.append((step, loss, rate))
        if self.curve:
            self.curve.add((step, loss, rate))
        if self.trackers:
            self.trackers.log(step, {"loss": loss, "learning_rate": rate})
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=f"loss {loss:.4f}")
        else:
            CONSOLE.print(f"step {step}: loss {loss:.4f}, learning rate {rate:.3g}", highlight=False)

    def checkpoint(self, step: int, learned: Artifact | None) -> None:
        """Save the artifact after ``step`` steps."""
        if learned:
            stamped = replace(learned, facts={**learned.facts, "step": step})
            artifacts.save(stamped, self.folder / "checkpoints" / f"{step:06d}.safetensors")

    def draws(self, step: int, *, checkpoint: bool, last: bool) -> bool:
        """Whether a preview is drawn after ``step`` steps."""
        due = step % self.preview_every == 0 or last if self.preview_every else checkpoint
        return due and self.preview is not None

    def draw(self, step: int) -> None:
        """Save a preview after ``step`` steps. The state is saved before, so that no step is lost if memory runs out.

        In that case, a run that resumes here leaves the preview out, and prints a warning.
        """
        if not self.preview:
            return
        path, too_large = self._previews / f"{step:06d}.png", self.scratch / f"undrawn-{step:06d}"
        if too_large.exists():
            text = f"step {step}: no preview, since memory did not suffice for it. Next: lower `preview.seeds`."
            CONSOLE.print(f"warning: {text}", highlight=False)
            return
        try:
            with atomic_path(path) as temporary:
                self.preview().save(temporary)
        except Exception as error:
            if is_out_of_memory(error):
                too_large.touch()
            raise
        if self.watch:
            self.watch.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, self.watch)

    def draw_again(self, step: int) -> None:
        """Draw the preview after ``step`` steps, unless a run that was stopped has saved it."""
        if not (self._previews / f"{step:06d}.png").exists():
            self.draw(step)

    def finish(self) -> Path:
        """Write the curve as DVC plots and metrics below ``training/``; returns the folder of all results."""
        from dvclive import Live

        if self._bar:
            self._bar.stop()
            self._bar = None
        if self.trackers:
            self.trackers.end()
        shutil.rmtree(self.folder / "training", ignore_errors=True)
        # without these two arguments, dvclive would rewrite dvc.yaml and save an experiment inside the stage
        with Live(str(self.folder / "training"), dvcyaml=None, save_dvc_exp=False) as live:
            for step, loss, rate in self.history:
                live.step = step
                live.log_metric("loss", loss)
                live.log_metric("learning_rate", rate)
                live.make_summary()
                live.sync()
        return self.folder

    def retain(self, steps: int, *, state: bool) -> None:
        """Mark that the run has ended after ``steps`` steps; with ``state``, a longer run can resume from its state."""
        if not state:
            self.discard()
            self.scratch.mkdir(parents=True)
        self._finished.write_text(str(steps), encoding="utf-8", newline="\n")

    def discard(self) -> None:
        """Delete the saved state, because the run has ended and its results were moved to the outs."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def forget_finished(folder: Path, days: int) -> None:
    """Delete the states of runs in ``folder`` that ended more than ``days`` days ago."""
    for marker in folder.glob(f"*/{FINISHED}"):
        if time.time() - marker.stat().st_mtime >= days * 86_400:
            shutil.rmtree(marker.parent, ignore_errors=True)
