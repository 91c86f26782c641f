"""A project that was evaluated and drawn once; tests change copies of it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """`tests.finished.project` after *evaluate* and *grid*, with its ``.cache``. Read only."""
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
