"""The schema of flows/params.yaml: when flows run by themselves.

`etude settings` writes it as JSON Schema, so that editors complete and check that file.
"""

from __future__ import annotations

import re
from pathlib import Path
from zoneinfo import available_timezones

from pydantic import Field, field_validator

from etude.command_line import command_line
from etude.core import params
from etude.core.files import write_json
from etude.core.params import Schema

FILE = Path("flows/params.yaml")
SCHEMA = Path("schemas/flows.schema.json")
FIELD = r"[\d*/,\-A-Za-z?#]+"
NEVER = ""


class Nightly(Schema):
    """When everything is brought up to date."""

    cron: str = Field(
        pattern=rf"^({FIELD}( {FIELD}){{4}})?$", description='minute, hour, day, month, weekday; "": never'
    )


class Changed(Schema):
    """How often flows look whether pictures or parameters have changed."""

    interval: str = Field(pattern=r"^([\d.]+[smhd]?)?$", description='between two looks (s, m, h or d); "": never')

    @field_validator("interval")
    @classmethod
    def _long_enough(cls, interval: str) -> str:
        if interval != NEVER and seconds(interval) < 10:
            raise ValueError("is too short, since each look takes seconds; write 10s or more")
        if interval != NEVER and seconds(interval) > 366 * 86400:
            raise ValueError('is more than a year: write less, or "" for never')
        return interval


class Weekly(Schema):
    """When the last tag is reproduced, and how."""

    cron: str = Field(
        pattern=rf"^({FIELD}( {FIELD}){{4}})?$", description='minute, hour, day, month, weekday; "": never'
    )
    force: bool = Field(description="compute everything again; false: stages that DVC remembers are not")
    tolerance: float = Field(ge=0, le=1, description="what metrics may differ by, relative")


class Settings(Schema):
    """All of flows/params.yaml."""

    time_zone: str = Field(description="in which the crons are read, such as Europe/Zurich")
    jobs: int = Field(ge=0, le=1024, description="stages at once; 0: one a core")
    nightly: Nightly
    changed: Changed
    weekly: Weekly

    @field_validator("time_zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError(f"{zone!r} is not a time zone; write one such as Europe/Zurich or Etc/UTC")
        return zone


def load(root: Path) -> Settings:
    """The settings of a repository. Raises one ParamsError with all faults."""
    return params.load(root / FILE, Settings)


def seconds(duration: str | float) -> float:
    """`90`, `90s`, `30m`, `4h` or `2d` in seconds. Raises ValueError on anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(duration))
    if not found:
        raise ValueError(f"{duration!r} is not a duration such as 90s, 30m, 4h or 2d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def main() -> None:
    """Write schemas/flows.schema.json, by which editors complete and check flows/params.yaml."""
    write_json(SCHEMA, Settings.model_json_schema())


if __name__ == "__main__":
    command_line(main)
