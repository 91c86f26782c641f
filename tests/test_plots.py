"""What DVC shows of the pipelines, in a clone whose cache has no results of the dvc.lock files."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.guards import load_stages
from tests.shipped import copy_project, dvc, git

ROOT = Path(__file__).parent.parent
SINGLE = (".png", ".json", ".csv", ".tsv")  # outs that are one file


def write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        YAML().dump(data, file)


def lock_all(folder: Path) -> None:
    """Write dvc.lock files whose outs, for every stage of every method, are in no cache."""
    locks: dict[Path, dict[str, Any]] = {}
    for stage in load_stages(folder):
        outs = []
        for out in stage.outs:
            digest = hashlib.md5(out.encode(), usedforsecurity=False).hexdigest()
            kind = {} if out.endswith(SINGLE) else {"nfiles": 1}
            outs.append({"path": out, "hash": "md5", "md5": digest + ".dir" * bool(kind), "size": 1, **kind})
        file = folder / Path(stage.raw.path_in_repo).parent / "dvc.lock"
        locks.setdefault(file, {})[stage.raw.name] = {"cmd": stage.raw.cmd, "outs": outs}
    for file, stages in locks.items():
        write(file, {"schema": "2.0", "stages": stages})


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's graph with the locks of runs made elsewhere, and one quick pipeline more to run."""
    folder = copy_project(tmp_path_factory.mktemp("stranger") / "clone")
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    lock_all(folder)
    write(folder / "pipelines/quick/params.yaml", {"rate": 1})
    stage: dict[str, Any] = {
        "cmd": "mkdir -p out && cp pipelines/quick/params.yaml out/rate",
        "wdir": "../..",
        "outs": ["out"],
    }
    stage["params"] = [{"pipelines/quick/params.yaml": None}]
    write(folder / "pipelines/quick/dvc.yaml", {"stages": {"try": stage}})
    with (folder / ".gitignore").open("a") as file:
        file.write("/out\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def test_an_experiment_is_kept_where_no_cache_has_the_other_methods_results(stranger: Path) -> None:
    own = "pipelines/quick/dvc.yaml"
    dvc(stranger, "exp", "run", own, "-S", "pipelines/quick/params.yaml:rate=2")
    dvc(stranger, "exp", "run", "--temp", own, "-S", "pipelines/quick/params.yaml:rate=3")
    dvc(stranger, "exp", "save", "--name", "saved", f"{own}:try")
    assert "saved" in dvc(stranger, "exp", "list", "--name-only")
    assert len(dvc(stranger, "exp", "list", "--name-only").split()) >= 3
    dvc(stranger, "metrics", "show")


def test_the_page_of_plots_opens_without_a_network(stranger: Path) -> None:
    said = dvc(stranger, "plots", "show")
    page = (stranger / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "index.html" in said
    assert "vegaEmbed" in page
    assert re.findall(r"(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+", page) == []


def test_a_plot_given_by_its_path_is_an_out_of_its_own(shipped: Path) -> None:
    outs = {out for stage in load_stages(shipped) for out in stage.outs}
    assert not [path for path in plotted_paths(shipped) if path not in outs]
    assert "artifacts/lora/grid/grid.png" in plotted_paths(shipped)


def plotted_paths(root: Path) -> list[str]:
    """The paths, from the root, of those plots of methods that are paths; other plots are names with sources below."""
    found = []
    for file in sorted(root.glob("pipelines/*/dvc.yaml")):
        for plot in YAML(typ="safe").load(file.read_text(encoding="utf-8")).get("plots", []):
            if isinstance(plot, str):
                path = plot.replace("${method}", file.parent.name).removeprefix("../../")
                found.append(path)
    return found
