"""What Windows lacks and gets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from commands.windows import provide_python3


def test_a_virtual_environment_gets_a_python3_once_and_another_python_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, copy = tmp_path / "python.exe", tmp_path / "python3.exe"
    python.write_text("python")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    provide_python3()
    assert not copy.exists()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    provide_python3()
    assert copy.read_text() == "python"
    copy.write_text("another")
    provide_python3()
    assert copy.read_text() == "another"
