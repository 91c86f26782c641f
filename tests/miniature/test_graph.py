"""The miniature's graph: every stage names the code that it runs, and the root graph does not reach it."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from etude.core.params import read_yaml
from tests.guards import Stage, files_needed, missing_deps

FILE = Path("miniature/dvc.yaml")
SHELL, CONSOLE = "tasks/shell/__init__.py", "tasks/shell/console.py"


def stages(root: Path) -> list[Stage]:
    made = []
    for name, stage in read_yaml(root / FILE)["stages"].items():
        made.append(Stage(name, stage["cmd"], tuple(stage["deps"]), {}, tuple(stage["outs"]), None))
    return made


def wrappers(graph: grimp.ImportGraph, stage: Stage) -> set[str]:
    """What starts the stage and shapes nothing that it writes; a console that its own module imports is none."""
    imported = graph.find_modules_directly_imported_by(stage.module)
    return {SHELL} if "tasks.shell.console" in imported else {SHELL, CONSOLE}


def test_every_stage_depends_on_the_code_that_it_imports(root: Path, graph: grimp.ImportGraph) -> None:
    for stage in stages(root):
        needed = files_needed(graph, stage, [], root) - wrappers(graph, stage)
        assert not missing_deps(needed, stage.deps), stage.name


def test_a_console_that_a_stage_itself_prints_on_is_found(root: Path, graph: grimp.ImportGraph) -> None:
    measure = next(stage for stage in stages(root) if stage.module == "miniature.measure")
    needed = files_needed(graph, measure, [], root) - wrappers(graph, measure)
    assert missing_deps(needed, [dep for dep in measure.deps if dep != CONSOLE]) == [CONSOLE]


def test_every_out_lies_in_the_pipelines_own_folder(root: Path) -> None:
    outs = [out for stage in stages(root) for out in stage.outs]
    assert outs
    assert all(out.startswith("miniature/out/") for out in outs)


@pytest.mark.parametrize("path", ["dvc.yaml", "params.yaml"])
def test_nothing_at_the_root_names_the_miniatures_outs(shipped: Path, path: str) -> None:
    assert "miniature/out" not in (shipped / path).read_text(encoding="utf-8")
