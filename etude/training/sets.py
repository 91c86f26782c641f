"""Several image sets that a method learns from at once, each with how often its pictures count. No torch is imported.

The stage *further_set* records what each of the further sets contains; the build depends on these records, because
the number of its deps in DVC cannot depend on parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from etude.core.errors import InputError, StaleError
from etude.core.files import read_json
from etude.core.params import MethodParams, Schema, SetName

SOURCES = "sources"  # the folder of the records, and of what *start* reads, in artifacts/<method>
Repeats = Annotated[int, Field(ge=1, le=10_000)]


class FurtherSets(MethodParams):
    """A method that can learn from other image sets in addition to its own: it has a stage *further_set*."""

    added_keys: ClassVar = {"repeats": 1, "further_sets": {}}

    repeats: Repeats = Field(description="how often each picture of `set` counts, beside those of `further_sets`")
    further_sets: dict[SetName, Repeats] = Field(
        description="image sets that are learned too, each with how often its pictures count: {studio: 1}"
    )

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if self.repeats != 1 and not self.further_sets:
            raise ValueError(f"`repeats` {self.repeats} has no effect without `further_sets`: write 1")
        if self.set in self.further_sets:
            raise ValueError(
                f"`further_sets` has `{self.set}`, which is already `set`: remove it there, "
                "and write its number as `repeats`"
            )
        return self

    def image_sets(self) -> list[str]:
        """The method's own set, and the further ones."""
        return [*super().image_sets(), *self.further_sets]


class Place(NamedTuple):
    """A folder of shards, the prefix of its names, and how often each of its pictures counts."""

    prefix: str
    folder: Path
    repeats: int = 1


def further_places(params: Schema, part: str) -> list[Place]:
    """The folders ``part`` of the further sets, whose names are ``<set>/<picture>``."""
    further = params.further_sets if isinstance(params, FurtherSets) else {}
    return [Place(f"{name}/", Path("data", name, part), repeats) for name, repeats in further.items()]


def recorded(params: Schema, sources: Path) -> dict[str, str]:
    """The further sets' content when *further_set* read it: folder → digest; raises InputError without a record."""
    found: dict[str, str] = {}
    for name in params.further_sets if isinstance(params, FurtherSets) else {}:
        file = sources / f"{name}.json"
        if not file.exists():
            raise InputError(file, "is missing", f"run `dvc repro`, so that the stage further_set@{name} runs")
        found |= read_json(file)
    return found


def refuse_changed_sets(records: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """Raise StaleError if a further set has changed since its record was made."""
    for folder, digest in records.items():
        if digests[folder] != digest:
            raise StaleError(folder, "has changed since the stage further_set read it", "run `dvc repro`")
