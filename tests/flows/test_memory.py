"""What `etude run --dry` says of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.memory import needs
from flows.plan import CHECKOUT, Stage

BUILDS = [Stage(f"pipelines/{name}/dvc.yaml:build", f"{name}:build") for name in ("lora", "dreambooth", "hypernetwork")]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory of the GPU with which estimates were asked."""
    asked: list[int] = []

    def told(method: str, room: int) -> tuple[str, str]:
        asked.append(room)
        answers = {"lora": ("7.0 GB, fits", ""), "dreambooth": ("55.0 GB, does not fit", "write `recompute: true`")}
        return answers.get(method, ("", ""))

    monkeypatch.setattr("etude.estimates.told", told)
    monkeypatch.setattr("flows.memory.device_memory", lambda: 24)
    return asked


def test_each_build_has_its_memory_and_what_to_do_is_told_after_the_table(rooms: list[int]) -> None:
    found = needs(CHECKOUT, [*BUILDS, Stage("prepare@concept", "prepare@concept")])
    assert list(found.told.values()) == ["7.0 GB, fits", "55.0 GB, does not fit", ""]
    assert found.lines == [
        "dreambooth does not fit. Next: write `recompute: true`.",
        "memory is not counted yet of hypernetwork: `etude memory METHOD` counts it",
    ]
    assert rooms == [24] * 3


def test_nothing_is_told_of_a_project_with_other_code(rooms: list[int], tmp_path: Path) -> None:
    assert needs(tmp_path, BUILDS) == ({}, [])
    assert rooms == []
