from __future__ import annotations

import numpy as np
import pytest

from etude.evaluation import metrics

X = np.array([[1.0, 0.0], [0.0, 1.0]])
Y = np.array([[1.0, 0.0], [0.6, 0.8]])


def random(n: int, d: int = 8, seed: int = 0) -> metrics.Array:
    return metrics.unit(np.random.default_rng(seed).normal(size=(n, d)))


def test_text_alignment_is_the_cosine_of_each_picture_with_its_own_text() -> None:
    assert metrics.text_alignment(X, Y) == pytest.approx([1.0, 0.8])


def test_image_similarity_is_the_mean_over_all_pairs() -> None:
    # by hand: (1, 0) with both: 1, 0.6; (0, 1): 0, 0.8
    assert metrics.image_similarity(X, Y) == pytest.approx([0.8, 0.4])
    assert metrics.image_similarity(X, Y).mean() == pytest.approx((X @ Y.T).mean())


def test_nearest_similarity_finds_a_copy_of_a_training_picture() -> None:
    assert metrics.nearest_similarity(X, Y) == pytest.approx([1.0, 0.8])


def test_diversity_is_zero_for_equal_pictures_and_one_for_orthogonal_ones() -> None:
    assert metrics.diversity(np.repeat(X[:1], 3, axis=0)) == pytest.approx(0.0)
    assert metrics.diversity(X) == pytest.approx(1.0)
    assert metrics.diversity(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])) == pytest.approx((1 + 0.4 + 0.2) / 3)


def test_one_picture_has_no_diversity_and_no_leave_one_out() -> None:
    assert metrics.diversity(X[:1]) is None
    assert metrics.leave_one_out(X[:1]) is None


def test_leave_one_out_never_compares_a_picture_with_itself() -> None:
    assert metrics.leave_one_out(X) == (0.0, 0.0)
    three = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    mean, nearest = metrics.leave_one_out(three) or (0.0, 0.0)
    assert mean == pytest.approx((0 + 0.6 + 0 + 0.8 + 0.6 + 0.8) / 6)
    assert nearest == pytest.approx((0.6 + 0.8 + 0.8) / 3)


def test_kid_of_orthogonal_pictures_against_one_direction_by_hand() -> None:
    same = np.array([[1.0, 0.0], [1.0, 0.0]])
    # E k(x, x') = (0+1)³ = 1; E k(y, y') = (1+1)³ = 8; E k(x, y) = (8 + 1)/2 = 4.5
    assert metrics.kid(X, same) == pytest.approx(1 + 8 - 2 * 4.5)


def test_kid_is_the_unbiased_estimate_of_its_definition_pair_by_pair() -> None:
    x, y = random(5, seed=1) * 8**0.5, random(4, seed=2) * 8**0.5  # of length √d, as KID's kernel wants them
    own = [(a @ b / 8 + 1) ** 3 for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    other = [(a @ b / 8 + 1) ** 3 for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [(a @ b / 8 + 1) ** 3 for a in x for b in y]
    expected = np.mean(own) + np.mean(other) - 2 * np.mean(across)
    assert metrics.kid(metrics.unit(x), metrics.unit(y)) == pytest.approx(expected, rel=1e-9)


def test_kid_is_near_zero_within_one_distribution_and_grows_with_distance() -> None:
    one, other = random(60, seed=1), random(60, seed=2)
    shifted = metrics.unit(random(60, seed=2) + np.array([1.0, *[0.0] * 7]))
    assert abs(metrics.kid(one, other) or 1) < 0.05
    assert (metrics.kid(one, shifted) or 0) > 0.3


def test_kid_needs_two_pictures_on_each_side() -> None:
    assert metrics.kid(X[:1], Y) is None
    assert metrics.kid(X, Y[:1]) is None


def test_cmmd_is_zero_for_equal_sets_and_known_for_two_single_vectors() -> None:
    assert metrics.cmmd(X, X) == pytest.approx(0.0, abs=1e-9)
    # k(x, x) = 1, |x − y|² = 2 → 1000 · 2 · (1 − exp(−2/200))
    assert metrics.cmmd(X[:1], X[1:]) == pytest.approx(2000 * (1 - np.exp(-0.01)))


def test_spread_is_the_deviation_between_seeds_and_not_between_prompts() -> None:
    values = np.array([[0.1, 0.2], [0.9, 1.0]])  # prompts differ much, seeds by 0.1
    assert metrics.spread(values) == (pytest.approx(0.55), pytest.approx(0.1 / 2**0.5))
    assert metrics.spread(values[:, :1]) == (pytest.approx(0.5), None)


def test_numbers_are_rounded_to_six_significant_digits() -> None:
    assert metrics.significant(0.12345678) == 0.123457
    assert metrics.significant(123456.78) == 123457.0
    assert metrics.significant(None) is None
