"""Which stage a process is: every stage as DVC itself reads it, and found by its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from ruamel.yaml import YAML

from etude.core.errors import StaleError
from etude.watch.stages import Stage, every, find
from tests.shipped import copy_project


def as_dvc_reads(root: Path, repository: str = ".") -> dict[str, Stage]:
    """All stages of a repository that have a command, by name, with everything in an order of its own."""
    found = {}
    with Repo(str(root / repository)) as repo:
        for stage in repo.index.stages:
            if stage.cmd:
                file = Path(stage.path).relative_to(root).as_posix()
                name = stage.name if file == "dvc.yaml" else f"{file}:{stage.name}"
                params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
                cmd = stage.cmd if isinstance(stage.cmd, list) else stage.cmd.splitlines()
                found[name] = Stage(
                    name=name,
                    commands=tuple(cmd),
                    deps=paths(root, [dep for dep in stage.deps if dep not in params]),
                    params={path: tuple(sorted(dep.params)) for dep in params for path in paths(root, [dep])},
                    outs=paths(root, stage.outs),
                )
    return found


def paths(root: Path, entries: list[Any]) -> tuple[str, ...]:
    return tuple(sorted(Path(entry.fs_path).relative_to(root).as_posix() for entry in entries))


def as_we_read() -> dict[str, Stage]:
    return {
        stage.name: Stage(
            name=stage.name,
            commands=stage.commands,
            deps=tuple(sorted(stage.deps)),
            params={file: tuple(sorted(keys)) for file, keys in stage.params.items()},
            outs=tuple(sorted(stage.outs)),
        )
        for file in [
            Path("dvc.yaml"),
            *sorted(Path().glob("miniature/dvc.yaml")),
            *sorted(Path("pipelines").glob("*/dvc.yaml")),
        ]
        for stage in every(file)
    }


def test_every_stage_of_the_project_is_read_as_dvc_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy_project(tmp_path / "project")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    monkeypatch.chdir(root)
    assert as_we_read() == as_dvc_reads(root) | as_dvc_reads(root, "miniature")


FORMS = {
    "vars": [{"method": "lora", "deep": {"a": "x"}}, "more.yaml:deep,flag"],
    "stages": {
        "plain": {
            "cmd": ["python3 -m tasks.one ${method} ${flag} ${count} ${rate}", "echo '\\${HOME}'"],
            "deps": ["data/${deep.a}", "${deep.b}/${list[1]}", "./code/"],
            "params": ["count", "deep.a", {"pipelines/lora/params.yaml": None}, {"more.yaml": ["flag"]}],
            "outs": ["out/plain", {"out/table.csv": {"cache": False}}],
            "metrics": ["out/metrics.json"],
        },
        "shell": {
            "cmd": "DIALS=1 nice python3 -m tasks.five 'my set' > log && (python3 -m tasks.six); echo end",
            "deps": ["code"],
            "outs": ["out/shell"],
        },
        "of_mapping": {
            "foreach": "${sets}",
            "do": {"cmd": 'python3 -m tasks.two ${key} "${item}"', "deps": ["${item}"], "outs": ["two/${key}"]},
        },
        "of_list": {
            "foreach": "${list}",
            "do": {"cmd": "python3 -m tasks.three ${item}", "deps": ["code"], "outs": ["three/${item}"]},
        },
        "of_blocks": {
            "foreach": [{"a": 1}, {"a": 2.5}],
            "do": {"cmd": "python3 -m tasks.four ${item.a}", "deps": ["code"], "outs": ["four/${item.a}"]},
        },
    },
}
ELSEWHERE = {
    "vars": ["../../params.yaml:count"],
    "stages": {
        "build": {
            "wdir": "../..",
            "cmd": "python3 -m tasks.build lora ${count} ${rank}",
            "deps": ["data/${set}"],
            "params": ["count", {"pipelines/lora/params.yaml": None}],
            "outs": ["out/build"],
        }
    },
}
VALUES = {"count": 3, "rate": 1e-4, "list": ["a", "b"], "sets": {"one": "data/my photos", "two": "data/x"}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with every form of dvc.yaml that is read."""
    monkeypatch.chdir(tmp_path)
    write("dvc.yaml", FORMS)
    write("params.yaml", VALUES)
    write("more.yaml", {"deep": {"b": "y"}, "flag": True, "unused": 1})
    write("pipelines/lora/dvc.yaml", ELSEWHERE)
    write("pipelines/lora/params.yaml", {"set": "concept", "rank": 4})
    return tmp_path


def write(path: str, data: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(data, Path(path))


def test_every_form_of_dvc_yaml_is_read_as_dvc_reads_it(project: Path) -> None:
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    ours = as_we_read()
    assert ours == as_dvc_reads(project)
    assert ours["plain"].deps == ("code", "data/x", "y/b")


def test_a_stage_is_known_by_its_command(project: Path) -> None:
    def name(module: str, *words: str, address: str = "") -> str | None:
        stage = find(module, words, address)
        return stage and stage.name

    assert name("tasks.one", "lora", "true", "3", "0.0001") == "plain"
    assert name("tasks.two", "one", "data/my photos") == "of_mapping@one"
    assert name("tasks.build", "lora", "3", "4") == "pipelines/lora/dvc.yaml:build"
    assert name("tasks.build", "lora", "3", "4", address="build") == "pipelines/lora/dvc.yaml:build"
    assert name("tasks.two", "one", "elsewhere") is None
    assert name("tasks.five", "my set") == name("tasks.six") == "shell"
    assert name("commands.sample", "lora") is None
    assert (
        name("commands.sample", "lora", address="plain") is None
    )  # somebody's stage that runs another command of ours


def test_a_stage_that_dvc_began_and_that_is_no_longer_there_is_refused(project: Path) -> None:
    write("params.yaml", VALUES | {"sets": {"one": "data/other"}})
    for name, folder in (("one", "data/my photos"), ("two", "data/x")):
        with pytest.raises(StaleError, match=f"dvc.yaml, with its params: no longer has a stage `of_mapping@{name}`"):
            find("tasks.two", [name, folder], f"of_mapping@{name}")
