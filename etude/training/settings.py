"""Settings of a run that change no result. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field

from etude.core.errors import ParamsError
from etude.core.params import Schema

Days = Annotated[int, Field(ge=0, le=3650)]
Tracker = Literal["tensorboard", "wandb", "mlflow"]  # also the names of their packages


class RunParams(Schema):
    """The parts of params.yaml that a build reads without depending on them: another value causes no new build."""

    trackers: list[Tracker]
    keep_states: Days


def refuse_missing_trackers(kinds: Sequence[Tracker]) -> None:
    """Raise ParamsError if the package of a tracker is not installed."""
    for kind in kinds:
        if not find_spec(kind):
            fault = f"`trackers` has {kind}, which is not installed"
            raise ParamsError("params.yaml", fault, f"`pip install {kind}`, or remove it from `trackers`")
