"""The front as DVC runs it: the repository's own dvc.yaml and code and the shipped params, on pictures drawn here."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands.rewriting import rewrite
from etude.core.params import read_yaml
from tests.shipped import copy_project, dvc
from tests.tasks.front import draw

pytestmark = pytest.mark.slow
HOSTILE = 'pictures/it\'s `touch pwned` $(touch pwned) $HOME; touch pwned # "the other"'  # a folder's name, no more


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A git and DVC repository with the project's code, a tiny base and two image sets."""
    folder = tmp_path_factory.mktemp("front") / "project"
    copy_project(folder)
    shutil.copytree(tiny_base, folder / "base")
    (folder / "words.txt").write_text("cat\ndog\n", encoding="utf-8")
    sets = {"concept": "pictures/one", "style": HOSTILE}
    values = {f"sets.{name}": path for name, path in sets.items()}
    values |= {
        "base": "base",
        "caption.captioners": {"clip": "base/clip"},
        "caption.words.file": "words.txt",
        "prepare.resolution": 64,
    }
    rewrite(folder / "params.yaml", "params.yaml", {**values, "prepare.flip": False})
    for number, path in enumerate(sets.values()):
        for seed in range(3):
            draw(folder / path / f"{seed}.png", 10 * number + seed)
            (folder / path / f"{seed}.txt").write_text(f"picture {seed} of {number}", encoding="utf-8")
    draw(folder / "pictures/one/0003.png", 99)  # CLIP is to name it
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


def repro(project: Path) -> str:
    """What `dvc repro` of the front says."""
    return dvc(project, "repro", "encode@concept", "encode@style")


def locked(project: Path) -> dict[str, dict[str, Any]]:
    """Out → hash, of every stage in dvc.lock."""
    stages = read_yaml(project / "dvc.lock")["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def test_each_change_runs_what_depends_on_it_and_encodes_only_what_is_new(project: Path) -> None:
    said = repro(project)
    assert "concept: latents: 4 encoded, 0 from cache; texts: " in said
    assert "style: latents: 3 encoded, 0 from cache; texts: " in said
    first = locked(project)
    assert len(first) == 9
    assert "Running stage" not in repro(project)
    assert not (project / "pwned").exists()

    (project / "pictures/one/1.txt").write_text("another text", encoding="utf-8")
    said = repro(project)
    assert "concept: latents: 0 encoded, 4 from cache; texts: 1 encoded, 4 from cache" in said
    assert "@style" not in "".join(line for line in said.splitlines() if "Running stage" in line)
    assert changed(project, first) == {"data/concept/captioned", "data/concept/texts"}

    (project / "pictures/one/1.txt").write_text("picture 1 of 0", encoding="utf-8")
    draw(project / HOSTILE / "0.png", 500)
    said = repro(project)
    assert "style: latents: 1 encoded, 2 from cache; texts: 0 encoded, 4 from cache" in said
    assert "Running stage" not in "".join(line for line in said.splitlines() if "@concept" in line)  # DVC restores them
    assert changed(project, first) == {f"data/style/{room}" for room in ("prepared", "captioned", "latents", "texts")}


def changed(project: Path, before: dict[str, Any]) -> set[str]:
    return {out for out, md5 in locked(project).items() if md5 != before[out]}
