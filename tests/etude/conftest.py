"""The three families as tiny random bases, loaded in float64 so that comparisons with diffusers are sharp."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from etude.base.base import Base
from etude.base.loading import load_base
from tests.tiny import build_tiny

FAMILIES = ("sd1", "sd2", "sdxl")


def change(file: Path, **values: Any) -> None:
    """Write other values into a configuration; NaN too, as other programs write it."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family → diffusers folder. Read only."""
    root = tmp_path_factory.mktemp("bases")

    @cache
    def build(family: str) -> Path:
        return build_tiny(root / family, family)

    return build


@pytest.fixture
def copy(folder_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A base of sd1 that may be changed."""
    return Path(shutil.copytree(folder_of("sd1"), tmp_path / "base"))


@pytest.fixture(scope="session")
def loaded(folder_of: Callable[[str], Path]) -> Callable[[str], Base]:
    """Family → base in float64, shared by all tests: leave it as it was."""

    @cache
    def load(family: str) -> Base:
        return load_base(folder_of(family), dtype=torch.float64)

    return load


@pytest.fixture(scope="session")
def pipeline_of(folder_of: Callable[[str], Path]) -> Callable[[str], DiffusionPipeline]:
    """Family → diffusers' own pipeline in float64, shared by all tests: leave it as it was."""

    @cache
    def load(family: str) -> DiffusionPipeline:
        pipeline = DiffusionPipeline.from_pretrained(folder_of(family), dtype=torch.float64, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base(family: str, loaded: Callable[[str], Base]) -> Base:
    """Each family in turn."""
    return loaded(family)


@pytest.fixture
def folder(family: str, folder_of: Callable[[str], Path]) -> Path:
    """Each family's folder in turn. Read only."""
    return folder_of(family)


@pytest.fixture
def sd1(loaded: Callable[[str], Base]) -> Base:
    return loaded("sd1")
