"""The training pictures, with which drawn pictures are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.prepared import is_copy


def real_pictures(prepared: Path) -> list[str]:
    """Ids of the pictures in ``data/<set>/prepared``, sorted, without copies; raises InputError if none."""
    listed = read_json(prepared / "images.json")["images"]
    names = sorted(name for name, entry in listed.items() if not is_copy(entry))
    if not names:
        raise InputError(prepared, "holds no pictures", "run `dvc repro` so that *prepare* makes them")
    return names


def evenly(names: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of ``names``, evenly spread from the first on."""
    count = min(count, len(names))
    return [names[number * len(names) // count] for number in range(count)]
