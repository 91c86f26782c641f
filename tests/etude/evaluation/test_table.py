from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etude.core.errors import InputError
from etude.evaluation.metrics import MetricInputs, ceiling, unit
from etude.evaluation.settings import Best
from etude.evaluation.table import Row, best_row, measure, summary
from etude.metrics import BY_KEY
from etude.rendering.candidates import UNTOUCHED, Candidate

HIGHEST = Best(metric="image_similarity", direction="max")


def row(step: int, value: float | None) -> Row:
    candidate = Candidate(f"{step:06d}", step, Path(f"{step}.safetensors"), final=step == 300) if step else UNTOUCHED
    return Row(candidate, {"image_similarity": value, "validation_loss": value}, {"image_similarity": 0.1})


def test_the_best_checkpoint_has_the_largest_or_the_smallest_value() -> None:
    rows = [row(0, 0.9), row(100, 0.5), row(200, 0.7), row(300, 0.6)]
    assert best_row(rows, HIGHEST).candidate.step == 200
    assert best_row(rows, Best(metric="validation_loss", direction="min")).candidate.step == 100


def test_of_equal_checkpoints_the_earliest_is_best() -> None:
    assert best_row([row(0, 0.1), row(100, 0.5), row(200, 0.5)], HIGHEST).candidate.step == 100
    assert best_row([row(0, 0.1), row(100, 0.0), row(200, 0.0)], HIGHEST).candidate.step == 100


def test_a_value_of_0_is_a_value_and_an_unknown_one_is_none() -> None:
    rows = [row(0, 0.1), row(100, 0.0), row(200, 0.5), row(300, None)]
    assert best_row(rows, HIGHEST).candidate.step == 200
    assert best_row(rows, Best(metric="validation_loss", direction="min")).candidate.step == 100


def test_the_untouched_base_is_never_the_best_checkpoint() -> None:
    assert best_row([row(0, 0.99), row(100, 0.5)], HIGHEST).candidate.step == 100


def test_a_rule_on_what_was_not_measured_is_an_error_that_names_it() -> None:
    with pytest.raises(InputError, match="text_alignment"):
        best_row([row(0, 0.1), row(100, 0.5)], Best(metric="text_alignment", direction="max"))


def test_prompts_without_words_for_clip_do_not_count_for_the_text_alignment() -> None:
    pictures = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [1.0, 0.0]]])
    text = np.array([1.0, 0.0])
    made = measure(row(100, None).candidate, MetricInputs(pictures, [None, text], np.eye(2), 0.5), {})
    assert made.values["text_alignment"] == pytest.approx(0.8)
    assert made.spreads["text_alignment"] == pytest.approx(0.2 * 2**0.5, rel=1e-5)
    nothing = measure(row(100, None).candidate, MetricInputs(pictures, [None, None], np.eye(2), 0.5), {})
    assert nothing.values["text_alignment"] is None


def test_a_row_holds_the_means_over_prompts_and_seeds() -> None:
    pictures = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    made = measure(row(100, None).candidate, MetricInputs(pictures, [None, None], np.array([[1.0, 0.0]]), 0.25), {})
    assert made.values["image_similarity"] == pytest.approx(0.75)
    assert made.spreads["image_similarity"] == pytest.approx(0.5 / 2**0.5, rel=1e-5)
    assert made.values["diversity"] == pytest.approx(0.5)  # 1 for the first prompt, 0 for the second
    assert made.values["kid"] is None  # one real picture
    assert made.values["validation_loss"] == 0.25


def test_numbers_against_held_out_pictures_count_where_a_prompt_asks_for_something() -> None:
    pictures = np.ones((2, 2, 1))
    against = {"concept_accuracy": np.array([[1.0, 0.0], [np.nan, np.nan]]), "style_accuracy": np.full((2, 2), np.nan)}
    made = measure(row(100, None).candidate, MetricInputs(pictures, [None, None], np.ones((1, 1)), 0.25), against)
    assert made.values["concept_accuracy"] == 0.5
    assert made.spreads["concept_accuracy"] == pytest.approx(0.5**0.5, rel=1e-5)
    assert made.values["style_accuracy"] is None
    assert made.values["heldout_similarity"] is None  # not measured at all


def test_the_ceiling_is_what_real_pictures_score_against_each_other() -> None:
    real = unit(np.array([[1.0, 0.0], [0.6, 0.8]]))
    assert ceiling(real) == {"image_similarity": 0.6, "nearest_similarity": 0.6, "diversity": 0.4}
    assert ceiling(real[:1]) == {}


def test_the_summary_names_base_best_final_and_real_and_leaves_out_what_is_unknown() -> None:
    values = dict.fromkeys(BY_KEY)
    rows = [Row(r.candidate, {**values, **r.values}, r.spreads) for r in (row(0, 0.25), row(100, 0.75), row(300, 0.5))]
    made = summary(rows, rows[1], {"image_similarity": 0.9})
    assert made == {
        "image_similarity": {
            "real": 0.9, "base": 0.25, "best": 0.75, "final": 0.5,
            "base_spread": 0.1, "best_spread": 0.1,
        },
        "validation_loss": {"base": 0.25, "best": 0.75, "final": 0.5},
    }  # fmt: skip
