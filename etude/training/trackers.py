"""Accelerate's trackers, to which a run also sends the points of its curve. Each is imported only if it is chosen
(`settings.RunParams`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.core.errors import TrainingError
from etude.training.settings import Tracker

PROJECT = "etude"  # the project in Weights & Biases, the experiment in MLflow, the folder of TensorBoard
MLFLOW_ID = "mlflow-run"


@dataclass
class Trackers:
    """The trackers of one run.

    A run that resumes continues its own run in each tracker, and no point is sent twice: ``folder`` holds the files of
    the trackers, and the last step that was sent.
    """

    kinds: Sequence[Tracker]
    folder: Path
    config: Mapping[str, Any]  # the method's params, shown beside the curve
    device: str = "cpu"  # of the training: "cpu" or "cuda"
    _open: list[Any] = field(default_factory=list)

    @property
    def _told(self) -> Path:
        return self.folder / "last-step"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send a point, unless it was sent before the run was stopped; the first point opens the trackers."""
        if not self.kinds or step <= self._last():
            return
        if not self._open:
            self._begin()
        for tracker in self._open:
            tracker.log(dict(values), step=step)
        self._told.write_text(str(step), encoding="utf-8", newline="\n")

    def end(self) -> None:
        """Close the trackers."""
        for tracker in self._open:
            tracker.finish()
        self._open.clear()

    def _last(self) -> int:
        return int(self._told.read_text(encoding="utf-8")) if self._told.exists() else 0

    def _begin(self) -> None:
        """Raises TrainingError if a tracker cannot be opened."""
        from accelerate.state import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self.folder.mkdir(parents=True, exist_ok=True)
        # without an address, MLflow would create a database in the working folder
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder.parent.as_posix()}/mlflow.db")
        PartialState(cpu=self.device == "cpu")  # accelerate's trackers ask it whether this is the main process
        for kind in self.kinds:
            tracker = LOGGER_TYPE_TO_CLASS[kind](PROJECT, **self._settings(kind))
            try:
                tracker.start()
            except Exception as error:
                said = (str(error).strip().splitlines() or ["without a message"])[0][:120]
                fault = f"{kind} does not start ({type(error).__name__}: {said})"
                action = f"configure {kind} on this machine, or remove it from `trackers`"
                raise TrainingError("params.yaml: trackers", fault, action) from error
            self._open.append(tracker)
            if kind == "mlflow":
                (self.folder / MLFLOW_ID).write_text(tracker.tracker.info.run_id, encoding="utf-8", newline="\n")

    def _settings(self, kind: Tracker) -> dict[str, Any]:
        """How accelerate opens a tracker: under the name of this run; if this run was stopped, its run is reopened."""
        run = self.folder.name
        if kind == "tensorboard":
            return {"logging_dir": str(self.folder)}
        config = dict(flat(self.config))
        if kind == "wandb":
            return {"id": run, "name": run, "resume": "allow", "dir": str(self.folder), "config": config}
        saved = self.folder / MLFLOW_ID
        before = saved.read_text(encoding="utf-8") if saved.exists() else None
        return {"run_id": before, "run_name": run, "tags": {key: str(value) for key, value in config.items()}}


def flat(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested blocks by their dotted keys.

    >>> dict(flat({"rank": 4, "training": {"steps": 10}}))
    {'rank': 4, 'training.steps': 10}
    """
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
