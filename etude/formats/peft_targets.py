"""Which modules an adapter of PEFT changes, by its configuration: PEFT leaves the tensors of all others out.

Names match as in PEFT 0.21. A text is an expression for the whole name, or ``all-linear``. Each name of a list is that
of a module, or its end; an end counts only in the layers ``layers_to_transform``. The number of a layer is the first in
the module's name, or the first after ``layers_pattern``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.core.errors import FormatError
from etude.formats.peft_patterns import is_usable

FIELDS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
LINEAR = "all-linear"
Names = re.Pattern[str] | frozenset[str]


@dataclass(frozen=True)
class Targets:
    """The modules that a configuration names; if it names none, PEFT uses its own list for the model."""

    named: Names | None
    excluded: Names
    layers: frozenset[int] | None
    blocks: tuple[re.Pattern[str], ...]

    def has(self, name: str) -> bool:
        """Whether the adapter changes the module of this name in the model."""
        if _matches(self.excluded, name):
            return False
        if self.named is None:
            return True
        if isinstance(self.named, frozenset) and self.layers is not None and name not in self.named:
            match = next((match for block in self.blocks if (match := block.match(name))), None)
            return match is not None and int(match["number"]) in self.layers and _matches(self.named, name)
        return _matches(self.named, name)


EVERY = Targets(None, frozenset(), None, ())


def parse_targets(path: Path | str, fields: Mapping[str, Any]) -> Targets:
    """What the FIELDS of a configuration say; raises FormatError for a value that names no modules."""
    named, excluded, layers, pattern = (fields.get(name) for name in FIELDS)
    if isinstance(layers, int) and not isinstance(layers, bool):
        layers = [layers]
    if layers and (not isinstance(layers, list) or not all(type(layer) is int for layer in layers)):
        raise FormatError(
            path, f"has `{FIELDS[2]}: {str(layers)[:40]}`, which must be a list of whole numbers", "correct it"
        )
    patterns = [pattern] if isinstance(pattern, str) else pattern or []
    blocks = [rf"(?:^|.*?\.)(?:{_expression(path, FIELDS[3], each).pattern})\." for each in patterns]
    return Targets(
        None if named is None else _names(path, FIELDS[0], named),
        frozenset() if not excluded else _names(path, FIELDS[1], excluded),
        frozenset(layers) if layers else None,
        tuple(re.compile(rf"{block}(?P<number>\d+)\.") for block in blocks or [r".*?\.[^.]*\."]),
    )


def _names(path: Path | str, field: str, value: Any) -> Names:
    if isinstance(value, str) and value.lower() == LINEAR and field == FIELDS[0]:
        return re.compile(r"(?:.*\.)?(?!conv)[^.]+")  # a UNet's convolutions are conv…, except `proj_in`
    if isinstance(value, str):
        return _expression(path, field, value)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise FormatError(
            path, f"has `{field}: {str(value)[:40]}`, which must be a text or a list of texts", "correct it"
        )
    return frozenset(value)


def _expression(path: Path | str, field: str, value: Any) -> re.Pattern[str]:
    if not isinstance(value, str) or not is_usable(value):
        fault = f"has the expression {str(value)[:60]!r} in `{field}`, which is damaged or too long to match"
        raise FormatError(path, fault, "write a list of names of modules in its place")
    return re.compile(value)


def _matches(names: Names, name: str) -> bool:
    if isinstance(names, re.Pattern):
        return names.fullmatch(name) is not None
    return name in names or any(name.endswith(f".{end}") for end in names)
