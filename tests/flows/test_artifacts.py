"""What is shown in Prefect's UI: names and prompts as they are."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from flows.plan import Stage


@pytest.mark.parametrize(
    "text",
    [
        "a <img src=x onerror=alert(1)> | `code` & &lt; **bold** _thin_ ~~gone~~",
        "[here](javascript:alert(1)) ![x](http://a.b/c) <https://a.b>",
        "# 1. * - + > \\| $x$ 'q' \"q\" é → 0.1",
    ],
)
def test_names_and_prompts_are_no_mark_up_in_what_prefect_shows(text: str) -> None:
    from flows.artifacts import plain

    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"| a |\n|---|\n| {plain(text)} |")
    (cell,) = re.findall("<td>(.*)</td>", page)
    assert "<" not in cell
    assert html.unescape(cell) == text


def test_a_text_is_one_line_and_holds_no_address_that_becomes_a_link() -> None:
    from flows.artifacts import plain

    shown = plain("two\nlines https://a.b WWW.a.b a@b.org out/index.html")
    assert html.unescape(shown) == "two lines https://a.b WWW.a.b a@b.org out/index.html"
    assert not re.search(r"://|www\.|@|\n", shown, re.IGNORECASE)


STAGE = Stage(
    "pipelines/lora/dvc.yaml:build", "lora:build", outs=("out/made", "out/one.png", "out/metrics.json", "gone")
)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What a stage left: pictures, numbers, a page."""
    (tmp_path / "out/made").mkdir(parents=True)
    for name in ("out/made/b.png", "out/made/a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "out/one.png", compress_level=0)
    (tmp_path / "out/made/metrics.json").write_text('{"clip": {"text": 0.5, "deep": {"er": 1}}, "loss": 2}')
    (tmp_path / "out/metrics.json").write_text('{"own": 3}')
    (tmp_path / "out/made/index.html").write_text("<p>")
    return tmp_path


def test_the_pictures_of_a_stage_are_its_results_and_not_its_data(made: Path) -> None:
    from flows.artifacts import MOST, pictures

    assert list(pictures(made, STAGE)) == ["out/made/a.png", "out/made/b.png", "out/one.png"]
    for number in range(MOST - 2):
        (made / f"out/made/c{number}.png").touch()
    assert len(pictures(made, STAGE)) == MOST + 1
    (made / "out/made/d.png").touch()
    assert list(pictures(made, STAGE)) == ["out/one.png"]


def test_the_numbers_of_a_stage_have_the_names_of_their_places(made: Path) -> None:
    from flows.artifacts import numbers

    assert numbers(made, STAGE) == {"clip.text": 0.5, "clip.deep.er": 1, "loss": 2, "own": 3}


def test_a_thumbnail_is_small_however_much_is_in_the_picture(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import artifacts

    sizes = []
    for limit in (10**7, artifacts.THUMBNAIL_BYTES, 20_000, 10):
        monkeypatch.setattr(artifacts, "THUMBNAIL_BYTES", limit)
        picture = artifacts.thumbnail(made / "out/one.png")
        assert len(picture) <= limit or limit == 10  # at some size it is small enough
        sizes.append(Image.open(io.BytesIO(picture)).size)
    assert sizes[0] == (800, 600)
    assert sizes == sorted(sizes, reverse=True)
    assert 56 < max(sizes[-1]) < 100


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What Prefect is given, by its key."""
    from flows import artifacts

    shown: dict[str, dict[str, Any]] = {}
    for kind in ("image", "table", "link", "markdown"):
        monkeypatch.setattr(artifacts, f"create_{kind}_artifact", lambda key, **given: shown.update({key: given}))
    return shown


@pytest.mark.parametrize("site", [None, "http://127.0.0.1:9"])
def test_a_stage_shows_its_pictures_its_numbers_and_its_page(
    made: Path, shown: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, site: str | None
) -> None:
    from flows import artifacts

    monkeypatch.setenv("PREFECT_HOME", str(made / "home"))
    artifacts.publish(made, STAGE, site)
    assert list(shown) == ["lora-build-a", "lora-build-b", "lora-build-one", "lora-build-metrics", "lora-build-page"]
    assert {"metric": "clip.text", "value": 0.5} in shown["lora-build-metrics"]["table"]
    address = shown["lora-build-one"]["image_url"]
    if site:
        assert (made / "home" / address.lstrip("/")).read_bytes() == artifacts.thumbnail(made / "out/one.png")
        assert shown["lora-build-page"]["link"] == f"{site}/out/made/index.html"
    else:
        assert address == artifacts.data_uri(artifacts.thumbnail(made / "out/one.png"))
        assert shown["lora-build-page"]["link"] == (made / "out/made/index.html").as_uri()
    shown.clear()
    artifacts.publish(made, replace(STAGE, title="trial"), site)  # its folder is soon gone, and the page with it
    assert "trial-lora-build-one" in shown
    assert not [key for key in shown if key.endswith("page")]


def test_a_plan_counts_what_is_to_be_done_and_says_why(shown: dict[str, dict[str, Any]]) -> None:
    from flows.artifacts import publish_plan

    publish_plan({STAGE: ("rank 4 → 8", "code"), Stage("b", "b|c"): ("after lora:build",)}, 5)
    lines = shown["plan"]["markdown"].splitlines()
    assert lines[0] == "2 of 5 stages to run, 3 up to date"
    table = ["| stage | why |", "|---|---|", "| lora:build | rank 4 → 8; code |", "| b&#124;c | after lora:build |"]
    assert lines[1:] == ["", *table]
    publish_plan({}, 5)
    assert shown["plan"]["markdown"].splitlines() == ["0 of 5 stages to run, 5 up to date"]


def test_the_end_of_each_stage_is_a_row_with_the_seconds_it_took(shown: dict[str, dict[str, Any]]) -> None:
    from flows.artifacts import publish_outcome

    publish_outcome([("a", "ran", 1.26), ("b", "skipped", None), ("c", "up to date", 0.0)])
    rows = [("a", "ran", 1.3), ("b", "skipped", ""), ("c", "up to date", "")]
    assert [tuple(row.values()) for row in shown["outcome"]["table"]] == rows


def test_what_is_shown_says_what_it_is(made: Path, shown: dict[str, dict[str, Any]]) -> None:
    from flows import artifacts

    artifacts.publish(made, STAGE, None)
    assert shown["lora-build-a"]["description"] == artifacts.plain("out/made/a.png")
    assert shown["lora-build-metrics"]["description"] == "metrics of lora:build"
    assert shown["lora-build-page"]["link_text"] == artifacts.plain("out/made/index.html")
    assert artifacts._key("Lora_1", "lora:Build", "build-Grid") == "lora-1-lora-build-grid"
