"""Pictures inside a page."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from etude.pages.pictures import inline


@pytest.mark.parametrize(
    ("size", "most", "shown"),
    [
        ((400, 300), 192, (192, 144)),
        ((100, 400), 200, (50, 200)),
        ((192, 192), 192, (192, 192)),
        ((64, 48), 192, (64, 48)),  # never enlarged
        ((400, 300), None, (400, 300)),
    ],
)
def test_a_picture_is_shrunk_to_what_is_shown_and_not_changed_otherwise(
    tmp_path: Path, size: tuple[int, int], most: int | None, shown: tuple[int, int]
) -> None:
    Image.effect_noise(size, 90).convert("RGB").save(tmp_path / "a.png")
    kind, _, data = inline(tmp_path / "a.png", most).partition(",")
    assert kind == "data:image/png;base64"
    found = Image.open(BytesIO(base64.b64decode(data)))
    assert (found.format, found.mode, found.size) == ("PNG", "RGB", shown)
    if size == shown:
        assert found.tobytes() == Image.open(tmp_path / "a.png").tobytes()
