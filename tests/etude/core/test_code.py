"""What the keys of the store know of the code that makes an entry."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import grimp
import pytest

from etude.core import code
from tests.guards import files_needed, missing_deps, module_stage
from tests.shipped import ROOT

MAKERS = {"tasks.encode": "CODE", "tasks.class_images": "CODE", "etude.rendering.renderer": "DRAWING"}


def places(module: str) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(importlib.import_module(module), MAKERS[module])
    return found


@pytest.mark.parametrize("module", MAKERS)
def test_a_key_covers_all_code_of_the_package_that_makes_the_entry(module: str, graph: grimp.ImportGraph) -> None:
    needed = files_needed(graph, module_stage(module), (), ROOT)
    assert missing_deps([file for file in needed if file.startswith("etude/")], places(module)) == []


@pytest.mark.parametrize("module", MAKERS)
def test_a_line_in_any_of_its_rooms_changes_a_key(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("etude", "tasks"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)
    before = code.code_digests(*places(module))
    for place in places(module):
        file = tmp_path / place if place.endswith(".py") else sorted((tmp_path / place).glob("*.py"))[-1]
        with file.open("a", encoding="utf-8") as text:
            text.write("# another line\n")
        after = code.code_digests(*places(module))
        assert [name for name in after if after[name] != before[name]] == [place]
        before = after
