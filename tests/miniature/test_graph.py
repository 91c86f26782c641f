"""The miniature's graph: every stage names the code that it runs, and the root graph does not reach it."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from etude.core.params import read_yaml
from tests.guards import Stage, files_needed, missing_deps

FILE = Path("miniature/dvc.yaml")
WRAPPERS = {"tasks/shell/__init__.py", "tasks/shell/console.py"}
"""They start a stage and shape nothing that it writes."""


def stages(root: Path) -> list[Stage]:
    made = []
    for name, stage in read_yaml(root / FILE)["stages"].items():
        made.append(Stage(name, stage["cmd"], tuple(stage["deps"]), {}, tuple(stage["outs"]), None))
    return made


def test_every_stage_depends_on_the_code_that_it_imports(root: Path, graph: grimp.ImportGraph) -> None:
    for stage in stages(root):
        needed = files_needed(graph, stage, [], root) - WRAPPERS
        assert not missing_deps(needed, stage.deps), stage.name


def test_every_out_lies_in_the_pipelines_own_folder(root: Path) -> None:
    outs = [out for stage in stages(root) for out in stage.outs]
    assert outs
    assert all(out.startswith("miniature/out/") for out in outs)


@pytest.mark.parametrize("path", ["dvc.yaml", "params.yaml"])
def test_nothing_at_the_root_names_the_miniatures_outs(shipped: Path, path: str) -> None:
    assert "miniature/out" not in (shipped / path).read_text(encoding="utf-8")
