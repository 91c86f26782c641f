"""Which methods share a table of the report, and what the table says of each."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from etude.pages.report import Entry, as_csv, numbers, render, rows
from tests.tasks.test_report import told

KEYS = ("set", "base", "clip", "classifier", "heldout", "name", "prompts", "seeds")
OTHERS = {"heldout": 7, "prompts": ["another [name]"], "seeds": [0, 1]}


def entry(method: str = "lora", best: float = 0.8, folder: Path = Path(), **asked: Any) -> Entry:
    return Entry(told(method, method, best, **asked), folder)


@pytest.mark.parametrize("key", KEYS)
def test_methods_that_were_measured_in_another_way_are_not_compared(key: str) -> None:
    assert entry(**{key: OTHERS.get(key, "other")}).field != entry().field
    assert entry("hypernetwork", 0.2, real=9, sampling={"steps": 5}).field == entry().field


def test_a_row_has_the_best_checkpoint_its_spread_and_the_base_and_nothing_where_nothing_was_measured() -> None:
    (row,) = rows([entry()])
    values = {name: row[f"image_similarity{name}"] for name in ("", "_spread", "_base")}
    assert values == {"": 0.8, "_spread": 0.01, "_base": 0.5}
    assert (row["method"], row["set"], row["step"], row["artifact_bytes"]) == ("lora", "concept", 300, 1000)
    assert row["kid"] is row["kid_spread"] is row["kid_base"] is None
    kept = numbers(row)
    assert kept == {
        "step": 300,
        "image_similarity": 0.8,
        "image_similarity_spread": 0.01,
        "image_similarity_base": 0.5,
        "artifact_bytes": 1000,
    }


def test_the_table_as_csv_has_a_line_for_each_method_below_the_names_of_its_columns() -> None:
    table = [{"method": "lora", "kid": None}, {"method": "hyper, net", "kid": 0.5}]
    assert as_csv(table) == 'method,kid\nlora,\n"hyper, net",0.5\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pictures of a page: of two prompts, and of eight seeds, of which a report shows two."""
    (tmp_path / "pictures").mkdir()
    for kind in ("base", "best"):
        for number in range(2):
            for seed in range(2):
                Image.new("RGB", (400, 300), (seed, number, 0)).save(
                    tmp_path / f"pictures/{kind}-{number:02d}-{seed}.png"
                )
    Image.new("RGB", (100, 300)).save(tmp_path / "pictures/training-0.png")
    return tmp_path


def test_pictures_are_at_most_192_pixels_large_and_two_of_each_prompt_are_shown(folder: Path) -> None:
    text = render([entry(folder=folder, seeds=[0, 1, 2]), entry("hypernetwork", folder=folder, seeds=[0, 1, 2])])
    found = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    sizes = [Image.open(BytesIO(data)).size for data in found]
    assert sorted(sizes) == [(64, 192), *[(192, 144)] * 12]  # of the base once, and of both methods


@pytest.mark.parametrize("lost", ["base", "best"])
def test_a_metric_has_a_chart_if_it_was_measured_of_all_methods(folder: Path, lost: str) -> None:
    both = [entry(folder=folder), entry("hypernetwork", folder=folder)]
    assert render(both).count("<svg") == 1
    del both[1].data["metrics"]["image_similarity"][lost]
    assert render(both).count("<svg") == 0
