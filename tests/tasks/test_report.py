from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from etude.core.errors import EtudeError
from etude.core.files import read_json, sha256_tree, write_json
from tasks.report import report
from tests.finished import write_yaml

ASKED: dict[str, Any] = {
    "name": "otter", "prompts": ["[name]", "noto [name]"], "seeds": [0, 1, 2], "set": "concept", "real": 5,
    "base": "models/miniature", "clip": "models/miniature/clip", "heldout": 0, "classifier": "",
    "sampling": {"sampler": "dpm++", "steps": 20, "guidance": 4.0, "negative": "", "clip_skip": 0},
}  # fmt: skip


def told(method: str, title: str, best: float, **asked: Any) -> dict[str, Any]:
    """A page.json."""
    similarity = {"base": 0.5, "best": best, "final": best, "real": 0.9, "base_spread": 0.02, "best_spread": 0.01}
    named = {"method": method, "title": title, "sentence": f"What {title} is.", "size": 1000, "files": []}
    chosen = {"checkpoint": "000300", "step": 300, "metric": "image_similarity", "direction": "max"}
    return {**named, "asked": {**ASKED, **asked}, "best": chosen, "metrics": {"image_similarity": similarity}}


def kept(told: dict[str, Any], best: float) -> dict[str, Any]:
    """The same, measured against held-out pictures."""
    accuracy = {"base": 0.0, "best": best, "final": best, "real": 1.0, "base_spread": 0.0, "best_spread": 0.1}
    similarity = {**accuracy, "base": 0.3, "real": 0.95}
    told["metrics"] |= {"heldout_similarity": similarity, "concept_accuracy": accuracy}
    return {**told, "asked": {**told["asked"], "heldout": 18, "classifier": "models/miniature/judge"}}


def write_page(folder: Path, told: dict[str, Any]) -> None:
    out = folder / "artifacts/pages" / told["method"]
    write_json(out / "page.json", told)
    (out / "pictures").mkdir()
    for kind in ("base", "best"):
        for number in range(2):
            for seed in range(2):
                Image.new("RGB", (16, 16), (seed * 99, number * 99, 50)).save(
                    out / f"pictures/{kind}-{number:02d}-{seed}.png"
                )
    Image.new("RGB", (16, 16)).save(out / "pictures/training-0.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_yaml(tmp_path / "params.yaml", {"methods": ["lora", "textual_inversion"]})
    write_page(tmp_path, told("lora", "LoRA", 0.8))
    write_page(tmp_path, told("textual_inversion", "Textual inversion", 0.7))
    write_page(tmp_path, told("hypernetwork", "Hypernetwork", 0.6))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def html(folder: Path) -> str:
    report()
    return (folder / "artifacts/report/index.html").read_text(encoding="utf-8")


def test_the_report_compares_the_chosen_methods_and_no_others(folder: Path) -> None:
    text = html(folder)
    assert "Textual inversion" in text
    assert "Hypernetwork" not in text
    assert '<a href="../pages/lora/index.html">' in text
    assert text.count('class="dot best"') == 2


def test_the_table_is_data_too(folder: Path) -> None:
    report()
    with (folder / "artifacts/report/methods.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["image_similarity"], row["image_similarity_base"]) for row in rows] == [
        ("lora", "0.8", "0.5"),
        ("textual_inversion", "0.7", "0.5"),
    ]
    assert rows[0]["kid"] == ""
    metrics = read_json(folder / "artifacts/report/metrics.json")
    assert metrics["lora"]["image_similarity"] == 0.8
    assert "kid" not in metrics["lora"]


def test_methods_that_were_asked_differently_stand_in_sections_of_their_own(folder: Path) -> None:
    write_json(
        folder / "artifacts/pages/textual_inversion/page.json",
        told("textual_inversion", "Textual inversion", 0.7, set="style", name="firefox"),
    )
    text = html(folder)
    assert text.count("<svg") == 2
    assert 'The set “<a href="../sets/style/index.html">style</a>”' in text


def test_names_are_escaped(folder: Path) -> None:
    write_json(folder / "artifacts/pages/lora/page.json", told("lora", "<script>", 0.8, name="<b>"))
    text = html(folder)
    assert "<script>" not in text
    assert "<b>" not in text


def test_equal_pages_give_equal_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report()
    assert capsys.readouterr().out == "lora, textual_inversion: artifacts/report/index.html\n"
    first = sha256_tree(folder / "artifacts/report")
    report()
    assert sha256_tree(folder / "artifacts/report") == first


@pytest.mark.parametrize("lost", ["page.json", "pictures/best-00-1.png"])
def test_what_is_missing_is_named_and_leaves_no_half_report(folder: Path, lost: str) -> None:
    (folder / "artifacts/pages/lora" / lost).unlink()
    with pytest.raises(EtudeError, match=Path(lost).name):
        report()
    assert not (folder / "artifacts/report").exists()


def test_what_was_measured_against_held_out_pictures_has_charts_and_columns_and_else_none(folder: Path) -> None:
    assert "Concept accuracy" not in html(folder)
    for name in ("lora", "textual_inversion"):
        path = folder / "artifacts/pages" / name / "page.json"
        write_json(path, kept(read_json(path), 0.75))
    text = html(folder)
    assert "Is it similar to the held-out pictures?" in text
    assert "Is it the concept?" in text
    assert "Is it the style?" not in text
    assert "against 18 held-out pictures" in text
    assert text.count("<figure") == 3
    assert "From 0 to 0.750" in text.replace("0.000", "0")
