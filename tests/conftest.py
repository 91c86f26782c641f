"""Fixtures: tiny bases with the real topology, made during the run; one thread, as in every stage."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import grimp
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that accesses a hub fails at once
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["DO_NOT_TRACK"] = "1"

ROOT = Path(__file__).parent.parent
gc.disable()  # while tests are collected: see pytest_collection_finish

LONGEST = ("test_readme_lines.py", "test_pipelines.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then those with slow tests: at the end, one would keep a single worker busy."""
    if unnamed := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{unnamed[0]}: its name has an address in it, so workers cannot share it: give it ids")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in LONGEST or item.path not in slow, item.path not in slow))


def pytest_collection_finish() -> None:
    """Let the garbage collector forget what stays: else it would look at libraries and thousands of tests each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion 1.5 with narrow widths, with ``clip/``. Read only."""
    from tests.tiny import build_tiny

    return build_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository. Its params files belong to the user: see `shipped`."""
    return ROOT


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of code and graph with the shipped parameters, for DVC without git. Read only."""
    from tests.shipped import copy_project

    folder = copy_project(tmp_path_factory.mktemp("shipped") / "project")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = True\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def graph() -> grimp.ImportGraph:
    """The imports of the project's own modules. Read only."""
    from tests.guards import build_graph

    return build_graph()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project that was evaluated and drawn once, with its ``.cache``. Read only: tests change copies of it."""
    from tasks.evaluate import evaluate
    from tasks.grid import grid
    from tests.finished import enter, project

    folder = tmp_path_factory.mktemp("finished")
    project(folder, tiny_base)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        evaluate("lora")
        grid("lora")
    return folder
