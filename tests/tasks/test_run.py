"""What a task's command line makes of errors."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etude.errors import InputError
from tasks import run

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def told(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Exception], str]:
    """What stderr shows when a command ends with an error."""
    monkeypatch.chdir(shipped)
    monkeypatch.setattr(sys, "argv", ["task"])

    def show(error: Exception) -> str:
        def command() -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            run(command)
        assert ended.value.code == 1
        return capsys.readouterr().err

    return show


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a.png", "is empty", "leave it out"), "error: a.png: is empty. Next: leave it out.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "data/x"),
            "error: data/x: No space left on device. Next:",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "error: out: Permission denied. Next: give",
        ),
        (OUT_OF_MEMORY, "error: device: its memory is full. Next: lower `batch_size`"),
    ],
)
def test_what_a_person_can_mend_is_one_line(told: Callable[[Exception], str], error: Exception, line: str) -> None:
    assert told(error).startswith(line)


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), FileNotFoundError(errno.ENOENT, "No such file", "a")])
def test_a_fault_of_the_code_keeps_its_trace(told: Callable[[Exception], str], error: Exception) -> None:
    with pytest.raises(type(error)):
        told(error)
