from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from etude.evaluation import metrics
from etude.evaluation.settings import Best
from etude.metrics import BY_KEY, CLASSIFIER, HELD_OUT, METRICS, REPORT, measured


def test_every_metric_has_a_key_of_its_own() -> None:
    assert len(BY_KEY) == len(METRICS)


def test_what_needs_no_pictures_held_out_is_computed_and_all_that_is_computed_is_a_metric() -> None:
    alone = {metric.key for metric in METRICS if not metric.needs}
    assert {*metrics.OF_A_PICTURE, *metrics.OF_A_SET} == alone


def test_a_classifier_is_asked_only_about_what_pictures_held_out_teach() -> None:
    assert all(HELD_OUT in metric.needs for metric in METRICS if CLASSIFIER in metric.needs)


def test_a_chart_that_compares_methods_has_a_better_side() -> None:
    assert all(metric.better for metric in METRICS if REPORT in metric.shown)


def test_columns_are_what_any_row_has_in_their_order() -> None:
    tables: list[dict[str, float | None]] = [{"cmmd": 1.0, "kid": None}, {"heldout_similarity": 0.5, "step": 3}]
    assert [metric.key for metric in measured(tables)] == ["heldout_similarity", "cmmd"]


def test_the_best_checkpoint_is_chosen_by_a_known_metric_towards_its_better_side() -> None:
    with pytest.raises(ValidationError, match="no metric `image_similarty`, did you mean `image_similarity`"):
        Best(metric="image_similarty", direction="max")
    with pytest.raises(ValidationError, match="write `min`"):
        Best(metric="cmmd", direction="max")
    for direction in ("min", "max"):  # neither side is the better one
        assert Best.model_validate({"metric": "nearest_similarity", "direction": direction}).direction == direction


def test_the_list_is_read_without_what_computes() -> None:
    heavy = ("torch", "numpy", "pydantic", "prefect")
    code = f"import sys, etude.metrics; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
