from __future__ import annotations

import csv
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etude.base.clip import Clip
from etude.core.errors import EtudeError
from etude.core.files import read_json, sha256_tree
from etude.core.params import read_yaml
from etude.evaluation import study
from tasks.evaluate import evaluate
from tests.classifying import write_classifier
from tests.finished import build, copy, write_yaml


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy(finished, tmp_path, monkeypatch)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def cached(folder: Path, kind: str) -> set[Path]:
    return {path for path in (folder / ".cache" / kind).rglob("*") if path.is_file()}


def test_evaluation_measures_the_base_first_and_the_final_artifact_once(finished: Path) -> None:
    out = finished / "artifacts/lora/evaluation"
    table = rows(out / "checkpoints.csv")
    assert [row["checkpoint"] for row in table] == ["base", "000010", "000020"]
    assert [row["step"] for row in table] == ["0", "10", "20"]
    metrics = read_json(out / "metrics.json")
    assert metrics["image_similarity"]["base"] == float(table[0]["image_similarity"])
    assert metrics["image_similarity"]["final"] == float(table[2]["image_similarity"])
    assert metrics["validation_loss"]["base"] != metrics["validation_loss"]["final"]
    assert set(metrics["image_similarity"]) >= {"base", "best", "final", "real", "base_spread"}
    best = read_json(out / "best.json")
    assert best["value"] == max(float(row["image_similarity"]) for row in table[1:])
    assert best["base"] == float(table[0]["image_similarity"])
    assert read_json(out.parent / "best.json") == {"checkpoint": best["checkpoint"]}  # the name, and no number
    assert len(rows(out / "pictures.csv")) == 3 * 2 * 2
    assert len(list((out / "pictures").rglob("*.png"))) == 2 * 2 * 2


def test_what_a_method_measured_of_itself_stands_beside_what_is_measured_of_all(finished: Path) -> None:
    out = finished / "artifacts/lora/evaluation"
    best = {"000010": 0.5, "000020": 1.0}[read_json(out / "best.json")["checkpoint"]]
    assert read_json(out / "metrics.json")["shift"] == {"base": 0.0, "best": best, "final": 1.0, "real": 1.5}
    words = {"name": "Shift", "about": "of the last bias", "better": ""}
    assert read_json(out / "evaluation.json")["measures"] == {"shift": words}


def test_the_loss_curve_has_a_value_at_each_timestep_and_its_mean_is_the_validation_loss(finished: Path) -> None:
    out = finished / "artifacts/lora/evaluation"
    curve = [row for row in rows(out / "validation.csv") if row["checkpoint"] == "000010"]
    assert [row["timestep"] for row in curve] == ["100", "900"]
    mean = sum(float(row["loss"]) for row in curve) / 2
    assert float(rows(out / "checkpoints.csv")[1]["validation_loss"]) == pytest.approx(mean, rel=1e-5)


def test_a_second_run_draws_nothing_and_writes_the_same_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / ".cache")
    evaluate("lora")
    first, pictures = sha256_tree(folder / "artifacts/lora/evaluation"), cached(folder, "images")
    assert "12 pictures, 12 of them drawn now" in capsys.readouterr().out
    evaluate("lora")
    told = capsys.readouterr().out
    assert "lora: 3 rows, 12 pictures, 0 of them drawn now" in told
    best = read_json(folder / "artifacts/lora/evaluation/best.json")
    base = read_json(folder / "artifacts/lora/evaluation/metrics.json")["image_similarity"]["base"]
    row = f"image_similarity {best['value']}, untouched base {base}"
    assert f"lora: best is {best['checkpoint']}: {row}" in told
    assert sha256_tree(folder / "artifacts/lora/evaluation") == first
    assert cached(folder, "images") == pictures


def test_a_new_checkpoint_draws_only_its_own_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(folder / "artifacts/lora/evaluation/checkpoints.csv")
    build(folder, (10, 20, 30))
    evaluate("lora")
    assert "16 pictures, 4 of them drawn now" in capsys.readouterr().out
    assert rows(folder / "artifacts/lora/evaluation/checkpoints.csv")[:3] == before


def test_numbers_do_not_depend_on_what_is_kept(folder: Path) -> None:
    first = sha256_tree(folder / "artifacts/lora/evaluation")
    for number, path in enumerate(sorted(cached(folder, "images") | cached(folder, "features"))):
        if number % 3 == 0:
            path.unlink()
    evaluate("lora")
    assert sha256_tree(folder / "artifacts/lora/evaluation") == first


def test_flipped_copies_are_no_real_pictures(finished: Path) -> None:
    assert read_json(finished / "artifacts/lora/evaluation/evaluation.json")["real"] == 3


def test_a_final_artifact_without_its_checkpoint_is_a_row_of_its_own(folder: Path) -> None:
    (folder / "artifacts/lora/build/checkpoints/000020.safetensors").unlink()
    evaluate("lora")
    table = rows(folder / "artifacts/lora/evaluation/checkpoints.csv")
    assert [row["checkpoint"] for row in table] == ["base", "000010", "final"]


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("artifacts/lora/build/artifact.safetensors", "artifact.safetensors"),
        ("data/concept/prepared/0000000000000001.png", "0000000000000001.png"),
        ("data/concept/latents/from-0000000000000000-flip.safetensors", "0000000000000000"),
        ("data/concept/prepared/images.json", "images.json"),
    ],
)
def test_what_is_missing_is_named_and_leaves_no_half_evaluation(folder: Path, lost: str, named: str) -> None:
    shutil.rmtree(folder / "artifacts/lora/evaluation")
    (folder / lost).unlink()
    with pytest.raises(EtudeError, match=named):
        evaluate("lora")
    assert not (folder / "artifacts/lora/evaluation").exists()


def test_a_set_without_prompts_is_an_error_that_says_where_to_add_them(folder: Path) -> None:
    write_yaml(folder / "pipelines/lora/params.yaml", {"set": "cats", "name": "sks", "trigger": True, "rank": 4})
    with pytest.raises(EtudeError, match=r"prompts\.cats"):
        evaluate("lora")


def hold_out(folder: Path, *, classify: bool) -> None:
    """Held-out pictures of the set, and a classifier."""
    (folder / "kept/concept-heldout").mkdir(parents=True)
    for number, words in enumerate(("noto-otter-on-a-red-background", "flat-otter", "noto-otter")):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "kept/concept-heldout" / f"{words}.png")
    write_classifier(folder / "classifier")
    params = read_yaml(folder / "params.yaml")
    params["evaluate"]["classify"] = classify
    write_yaml(folder / "params.yaml", params)


def test_a_set_with_held_out_pictures_is_measured_against_them_with_base_and_real_pictures_beside(folder: Path) -> None:
    hold_out(folder, classify=True)
    evaluate("lora")
    out = folder / "artifacts/lora/evaluation"
    metrics = read_json(out / "metrics.json")
    for name in ("heldout_similarity", "concept_accuracy", "background_accuracy"):
        assert {"base", "best", "final", "real", "base_spread"} <= set(metrics[name]), name
    assert "style_accuracy" not in metrics  # no prompt names a style, and the held-out pictures have none in common
    asked = read_json(out / "evaluation.json")
    assert (asked["heldout"], asked["classifier"]) == (3, "classifier")
    pictures = rows(out / "pictures.csv")
    hits = [float(row["concept_accuracy"]) for row in pictures if row["checkpoint"] == "base"]
    assert sum(hits) / len(hits) == metrics["concept_accuracy"]["base"]
    assert {row["background_accuracy"] for row in pictures if row["prompt"] == "[name]"} == {""}


def test_clip_is_not_in_memory_while_pictures_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out(folder, classify=False)
    shutil.rmtree(folder / ".cache")
    opened, seen, opening, draw = list[Any](), list[int](), Clip.__init__, study.draw

    def watched_opening(clip: Clip, *given: Any) -> None:
        opened.append(weakref.ref(clip))
        opening(clip, *given)

    def watched_draw(*given: Any) -> Any:
        gc.collect()
        seen.append(sum(clip() is not None for clip in opened))
        return draw(*given)

    monkeypatch.setattr(Clip, "__init__", watched_opening)
    monkeypatch.setattr(study, "draw", watched_draw)
    evaluate("lora")
    assert seen == [0]
    assert len(opened) == 2  # for the held-out pictures before, and for all others after


def test_without_classifying_only_the_similarity_to_the_held_out_pictures_is_measured(folder: Path) -> None:
    hold_out(folder, classify=False)
    shutil.rmtree(folder / "classifier")
    evaluate("lora")
    metrics = read_json(folder / "artifacts/lora/evaluation/metrics.json")
    assert "heldout_similarity" in metrics
    assert "concept_accuracy" not in metrics
    assert read_json(folder / "artifacts/lora/evaluation/evaluation.json")["classifier"] == ""


def test_a_set_without_held_out_pictures_says_so(finished: Path) -> None:
    asked = read_json(finished / "artifacts/lora/evaluation/evaluation.json")
    assert (asked["heldout"], asked["classifier"]) == (0, "")
    assert "heldout_similarity" not in read_json(finished / "artifacts/lora/evaluation/metrics.json")
