"""Several processes of one run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    scheduler = {
        "PMI_SIZE": "8",
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "1",
    }
    command = [sys.executable, "-c", SCRIPT, count]
    run = subprocess.run(command, env={**os.environ, **scheduler}, capture_output=True, text=True, check=True)
    assert sorted(run.stdout.splitlines()) == lines


FITTING = """
from pathlib import Path
import torch
from etude.training.fit import fit
from etude.training.plan import Optimization
from etude.training.report import Report
from tests.etude.training.test_fit import batches
from tests.etude.training.test_plan import BLOCK
w = torch.ones(4, 1, requires_grad=True)
fit({"w": w}, lambda batch: (batch.x @ w).square().mean(), batches, Optimization(**{**BLOCK, "steps": 1}),
    Report(Path(__import__("sys").argv[1]), 0, "cpu", "fp32"))
"""


@pytest.mark.parametrize("name", ["RANK", "PMI_SIZE"])
def test_a_training_waits_for_no_process_that_only_a_scheduler_speaks_of(name: str, tmp_path: Path) -> None:
    torchs = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871"}
    scheduler = torchs if name == "RANK" else {"PMI_SIZE": "2"}
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), **scheduler}
    command = [sys.executable, "-c", FITTING, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
