"""The curve of a run while it learns, in dvclive's files: ``plots/metrics/<name>.tsv`` with ``step`` and a value.

`dvc plots` and the DVC extension of VS Code read them. The folder is not an out of a stage, so it also shows a run that
was stopped. At its end, a run writes the same points to its out (`Report.finish`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

Point = tuple[int, float, float]  # step, loss, learning rate
NAMES = ("loss", "learning_rate")


class Curve:
    """The files of a run's curve below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _metrics(self) -> Path:
        return self.folder / "plots" / "metrics"

    def restart(self, points: Iterable[Point]) -> None:
        """Replace the files of an earlier run by ``points``; a resumed run has the points up to its step."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for point in points:
            self.add(point)

    def add(self, point: Point) -> None:
        """Append a line to each file; a file that does not exist is created."""
        step, *values = point
        self._metrics.mkdir(parents=True, exist_ok=True)
        for name, value in zip(NAMES, values, strict=True):
            path = self._metrics / f"{name}.tsv"
            head = "" if path.exists() else f"step\t{name}\n"
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{head}{step}\t{value}\n")
