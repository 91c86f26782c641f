"""Every stage that computes fixes its threads, and the choice of kernels, before it loads or writes anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.core import randomness
from etude.rendering import renderer
from tasks.build import build
from tasks.caption import caption
from tasks.class_images import class_images
from tasks.encode import encode
from tasks.prepare import prepare
from tasks.views import views
from tests.tasks import front
from tests.tasks.learning import change, make_project


class FixedError(Exception):
    """The threads were fixed: enough of this stage."""


@pytest.fixture(autouse=True)
def ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(threads: int, **_: bool) -> None:
        raise FixedError(threads)

    for module in (randomness, renderer):
        monkeypatch.setattr(module, "make_deterministic", end)


def files() -> set[Path]:
    """Files that stages wrote, without .cache/digests, which may be written at any time."""
    paths = {path for folder in ("artifacts", "data", ".cache") for path in Path(folder).rglob("*")}
    return {path for path in paths if path.parts[:2] != (".cache", "digests")}


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        ("lora", lambda: encode("concept")),
        ("lora", lambda: build("lora")),
        ("dreambooth", lambda: class_images("dreambooth")),
        ("custom_diffusion", lambda: views("custom_diffusion", "concept")),
    ],
    ids=["encode", "build", "class_images", "views"],
)
def test_a_stage_of_a_method_computes_with_the_threads_of_its_params(
    method: str, stage: Callable[[], Any], tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(make_project(tmp_path, tiny_base, method) / "params.yaml", threads=3)
    monkeypatch.chdir(tmp_path)
    before = files()
    with pytest.raises(FixedError, match="3"):
        stage()
    assert files() == before


def test_the_captioner_computes_with_the_threads_of_its_params(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(front.make_project(tmp_path, tiny_base))
    front.draw(Path("raw/0.png"), 1)
    front.set_param("threads: 1", "threads: 3")
    prepare("pets")
    with pytest.raises(FixedError, match="3"):
        caption("pets")


def test_what_draws_computes_with_the_threads_of_its_params() -> None:
    with pytest.raises(FixedError, match="3"):
        renderer.open_renderer("lora", base="models/tiny", device="cpu", precision="fp32", threads=3)
