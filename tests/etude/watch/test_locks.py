from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from etude.core.errors import InputError
from etude.watch.locks import locked, one_at_a_time


def test_a_file_that_is_locked_is_not_locked_again(tmp_path: Path) -> None:
    with (tmp_path / "file").open("a") as first, (tmp_path / "file").open("a") as second:
        assert locked(first.fileno())
        assert not locked(second.fileno())


def test_the_lock_ends_with_the_block(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "file"), (tmp_path / "file").open("a") as other:
        assert not locked(other.fileno())
    with (tmp_path / "file").open("a") as other:
        assert locked(other.fileno())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "file").open("a") as file, pytest.raises(InputError, match="cannot lock files .*Next: move"):
        locked(file.fileno())
