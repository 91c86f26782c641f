"""What `etude run --dry` says of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.estimates import UNCOUNTED
from flows.memory import needs
from flows.plan import CHECKOUT, Stage

BUILDS = [Stage(f"pipelines/{name}/dvc.yaml:build", f"{name}:build") for name in ("lora", "dreambooth", "hypernetwork")]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory of the GPU with which estimates were asked."""
    asked: list[int] = []

    def told(label: str, room: int) -> tuple[str, str]:
        assert Path.cwd() == CHECKOUT  # estimates read its params files
        asked.append(room)
        large = ("55.0 GB, does not fit", "write `recompute: true`")
        answers = {"lora:build": ("7.0 GB, fits", ""), "dreambooth:build": large, "prepare@concept": ("", "")}
        return answers.get(label, (UNCOUNTED, ""))

    monkeypatch.setattr("etude.estimates.told", told)
    monkeypatch.setattr("flows.memory.device_memory", lambda: 24)
    return asked


def test_each_build_has_its_memory_and_what_to_do_is_told_after_the_table(
    rooms: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = needs(CHECKOUT, [*BUILDS, Stage("prepare@concept", "prepare@concept")])
    assert list(found.told.values()) == ["7.0 GB, fits", "55.0 GB, does not fit", UNCOUNTED, ""]
    assert found.lines == [
        "dreambooth:build does not fit. Next: write `recompute: true`.",
        "memory: `etude memory METHOD` counts a build, and what draws with it",
    ]
    assert rooms == [24] * 4


def test_nothing_is_told_of_a_project_with_other_code(rooms: list[int], tmp_path: Path) -> None:
    assert needs(tmp_path, BUILDS) == ({}, [])
    assert rooms == []
