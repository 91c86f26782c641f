"""Several processes of one run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from etude.training.processes import is_launched, is_main, spread
spread(int(sys.argv[1]))
told = is_launched(), is_main(), os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
os.write(1, (" ".join(map(str, told)) + "\\n").encode())  # at once: two processes share the pipe
"""


@pytest.mark.parametrize(
    ("count", "lines"),
    [("1", ["False True None None"]), ("2", ["True False 1 2", "True True 0 2"])],
)
def test_the_ranks_of_a_scheduler_are_not_taken_for_ours(count: str, lines: list[str]) -> None:
    scheduler = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}
    command = [sys.executable, "-c", SCRIPT, count]
    run = subprocess.run(command, env={**os.environ, **scheduler}, capture_output=True, text=True, check=True)
    assert sorted(run.stdout.splitlines()) == lines
