"""Which settings of a training run exclude each other: one table. A run with two such settings is refused.

Settings of one params file are compared when it is read. `etude check` and the build stage, before it reads weights,
also compare the settings of a method with those of the project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

SLOWEST = 0.1  # the least factor of the rate that Prodigy finds; its authors advise 1


@dataclass(frozen=True)
class Setting:
    """Some values of a key: those for which ``is_meant`` holds."""

    key: str  # dotted; of a method's params.yaml, or of the project's
    words: str  # describes these values, after the key in a sentence
    is_meant: Callable[[Any], bool]
    instead: str  # a value for which `is_meant` is false


@dataclass(frozen=True)
class Exclusion:
    """Two settings of which a run can have only one."""

    first: Setting
    second: Setting
    reason: str


def _equal(key: str, value: Any, instead: str) -> Setting:
    return Setting(key, _shown(value), lambda found: found == value, instead)


def _above(key: str, limit: int) -> Setting:
    return Setting(key, f"above {limit}", lambda found: found > limit, str(limit))


def _other(key: str, value: str) -> Setting:
    return Setting(key, f"other than {value}", lambda found: found != value, value)


def _kind(kind: str) -> Setting:
    return _equal("training.optimizer.kind", kind, "adamw")


def _unequal_rate(key: str) -> Setting:
    return Setting(key, "other than 0 or 1", lambda rate: rate not in (0, 1), "1.0")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rates(text: float | str) -> list[float]:
    """The rates in A1111's syntax, such as `0.005:100, 1e-3`; ``text`` must be valid."""
    return [float(part.partition(":")[0]) for part in str(text).split(",") if part.strip()]


RATE = "training.learning_rate"
STEPWISE = Setting(RATE, "with several rates", lambda rate: len(_rates(rate)) > 1, "a number")
SLOW = Setting(RATE, f"below {SLOWEST}", lambda rate: min(_rates(rate)) < SLOWEST, "1.0")
RELEASE = _equal("gradient_release", True, "false")
ROUNDED = _equal("trained_precision", "bf16", "fp32")
PRODIGY, SCHEDULE_FREE = _kind("prodigy"), _kind("schedule_free")
GROUPS = ("text_encoder_rate", "word_rate", "negative_rate", "plus")  # multiples of the rate for some of the parameters

TABLE = (
    Exclusion(RELEASE, _above("training.clip", 0), "clipping needs all gradients at once"),
    Exclusion(RELEASE, _above("training.accumulation", 1), "the gradients of each batch are used and freed at once"),
    Exclusion(RELEASE, _above("processes", 1), "processes can average gradients only when all exist"),
    Exclusion(RELEASE, _equal("precision", "fp16", "bf16"), "gradients in fp16 are scaled, and checked all together"),
    Exclusion(RELEASE, PRODIGY, "Prodigy finds one rate from all gradients at once"),
    Exclusion(ROUNDED, _other("base_precision", "bf16"), "trained weights in bf16 need the whole base in bf16"),
    Exclusion(ROUNDED, _above("training.ema", 0), "an average changes by less than bf16 can hold"),
    Exclusion(ROUNDED, PRODIGY, "Prodigy compares the weights with those of the start, for which bf16 is too coarse"),
    Exclusion(ROUNDED, SCHEDULE_FREE, "the average of schedule_free changes by less than bf16 can hold"),
    Exclusion(SCHEDULE_FREE, _other("training.schedule", "constant"), "schedule_free replaces a schedule"),
    Exclusion(SCHEDULE_FREE, STEPWISE, "schedule_free replaces a schedule"),
    Exclusion(SCHEDULE_FREE, _above("training.ema", 0), "schedule_free already saves an average"),
    Exclusion(PRODIGY, SLOW, "the rate that Prodigy finds is multiplied by this one"),
    *(Exclusion(PRODIGY, _unequal_rate(key), "Prodigy finds one rate for all parameters") for key in GROUPS),
    Exclusion(_kind("adamw8bit"), _equal("device", "mps", "cpu"), "bitsandbytes cannot compute on this device"),
)


def exclusions(*blocks: Any) -> Iterator[tuple[str, str]]:
    """The settings in these blocks of parameters that exclude each other, and what to do.

    A key is looked up in one block after the other. A row of the table with a key that no block has is left out.
    """
    for row in TABLE:
        settings = (row.first, row.second)
        values = [_value(blocks, setting.key) for setting in settings]
        if all(value is not None and setting.is_meant(value) for setting, value in zip(settings, values, strict=True)):
            one, other = (f"`{setting.key}: {_shown(value)}`" for setting, value in zip(settings, values, strict=True))
            choices = " or ".join(f"`{setting.key}: {setting.instead}`" for setting in reversed(settings))
            yield f"{one} and {other} exclude each other: {row.reason}", f"write {choices}"


def _value(blocks: tuple[Any, ...], key: str) -> Any:
    """The value of a dotted key in the first block that has it; None if none has. No key in the table is ever null."""
    found = (reduce(lambda block, name: getattr(block, name, None), key.split("."), block) for block in blocks)
    return next((value for value in found if value is not None), None)
