"""Files as other programs write them, each with one mutation: read as those programs read them, or refused in a line.

A few of each kind, the same each time; `python -m tests.fuzz` tries thousands.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import FUZZED, try_one
from tests.fuzz.programs import OwnRefusal

NUMBERS: dict[str, range] = dict.fromkeys(FUZZED, range(50))
NUMBERS |= {"kohya_lora": range(100), "single_model": range(0, 18, 3), "folder_model": range(0, 24, 3)}  # of SD 1.x


@pytest.mark.parametrize("name", FUZZED)
def test_a_mutated_file_is_read_as_its_own_program_does_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    refused = 0
    for number in NUMBERS[name]:
        (tmp_path / str(number)).mkdir()
        try:
            refused += bool(try_one(name, number, tmp_path / str(number)))
        except OwnRefusal:
            continue  # its own program does not read it
    assert len(NUMBERS[name]) // 10 < refused < len(NUMBERS[name])
