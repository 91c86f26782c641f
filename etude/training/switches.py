"""The switches of a method that make its build need less memory: one table for errors and estimates.

Nothing here imports torch: it is read while parameters are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from etude.core.params import MethodParams
from etude.training.plan import SavesMemory, Trained, TrainedWhole
from etude.training.preview import preview_of

RESUMING = ("recompute",)  # keys that change no bit of the result


@dataclass(frozen=True)
class Switch:
    """A change of a method's params.yaml after which its build needs less memory."""

    change: Mapping[str, Any]  # dotted key → value
    about: str

    @property
    def resumes(self) -> bool:
        """Whether a stopped run resumes from its state after this change, because the result is the same."""
        return set(self.change) <= set(RESUMING)

    def __str__(self) -> str:
        changes = " and ".join(f"`{key}: {_written(value)}`" for key, value in self.change.items())
        return f"{changes} ({self.about})"

    def applied(self, params: MethodParams) -> MethodParams:
        """The params with this change."""
        values = params.model_dump()
        for key, value in self.change.items():
            *blocks, name = key.split(".")
            block = values
            for each in blocks:
                block = block[each]
            block[name] = value
        return type(params).model_validate(values)


def switches(params: MethodParams, precision: str) -> Iterator[Switch]:
    """The switches that are not on yet and that nothing excludes, cheapest first; ``precision`` is the project's."""
    for rule in _RULES:
        for switch in rule(params, precision):
            try:
                switch.applied(params)
            except ValidationError:  # see `exclusions`
                continue
            yield switch


def _recompute(params: MethodParams, precision: str) -> Iterator[Switch]:
    if isinstance(params, SavesMemory) and not params.recompute:
        yield Switch({"recompute": True}, "activations are computed twice: a third more time")


def _base_precision(params: MethodParams, precision: str) -> Iterator[Switch]:
    if isinstance(params, SavesMemory) and params.base_precision == "fp32" and precision != "fp32":
        yield Switch({"base_precision": precision}, "frozen weights in half")


def _batch(params: MethodParams, precision: str) -> Iterator[Switch]:
    if not isinstance(params, Trained) or params.training.batch_size == 1:
        return
    plan = params.training
    change = {"training.batch_size": 1, "training.accumulation": plan.accumulation * plan.batch_size}
    yield Switch(change, "steps of as many pictures, one after another")


def _optimizer(params: MethodParams, precision: str) -> Iterator[Switch]:
    if isinstance(params, Trained) and params.training.optimizer.kind == "adamw":
        yield Switch({"training.optimizer.kind": "adamw8bit"}, "its states in 8 bits; needs `make setup EXTRAS=gpu`")


def _release(params: MethodParams, precision: str) -> Iterator[Switch]:
    if isinstance(params, TrainedWhole) and not params.gradient_release and precision != "fp16":
        unclipped = {"training.clip": 0.0} if params.training.clip else {}
        yield Switch({"gradient_release": True, **unclipped}, "no gradients are kept; with one process only")


def _trained_precision(params: MethodParams, precision: str) -> Iterator[Switch]:
    if isinstance(params, TrainedWhole) and params.trained_precision == "fp32":
        yield Switch({"trained_precision": "bf16"}, "trained weights in half, rounded at random")


def _previews(params: MethodParams, precision: str) -> Iterator[Switch]:
    preview = preview_of(params)
    if preview and len(preview.seeds) > 1:
        yield Switch({"preview.seeds": preview.seeds[:1]}, "one picture in a preview")


def advice(params: MethodParams, precision: str) -> str:
    """What to do when a build has run out of memory."""
    same = "the same command goes on from the last saved state"
    switch = next(switches(params, precision), None)
    if switch is None:
        return f"close what else uses the device, and {same}; or lower the resolutions of `prepare` in params.yaml"
    if switch.resumes:
        return f"write {switch}, and {same}"
    return f"close what else uses the device, and {same}; or write {switch}, with which the run starts again"


_RULES: tuple[Callable[[MethodParams, str], Iterator[Switch]], ...] = (
    _recompute,
    _base_precision,
    _batch,
    _optimizer,
    _previews,
    _release,
    _trained_precision,
)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
