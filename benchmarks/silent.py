"""A report that prints nothing, for runs whose steps are measured."""

from __future__ import annotations

from etude.training.report import Report


class Silent(Report):
    """A report that prints nothing, and keeps the points of its curve."""

    def start(self, step: int, steps: int) -> None:
        """Print nothing."""

    def log(self, step: int, loss: float, rate: float) -> None:
        """Keep the point, and print nothing."""
        self.history.append((step, loss, rate))
