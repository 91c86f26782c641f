"""The metrics as functions of feature arrays: nothing here reads a model or a file.

A feature is a unit vector in CLIP's joint space; arrays are float64 [n, d]. All cosines are in [−1, 1].
`OF_A_PICTURE` and `OF_A_SET` contain the computation of each metric in `etude/metrics.py`; metrics that use held-out
pictures are computed in `etude/evaluation/heldout.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIGMA = 10.0  # bandwidth of CMMD's kernel
SCALE = 1000.0  # CMMD is reported in thousandths


def unit(features: Array) -> Array:
    """``features`` [n, d], each row scaled to length 1."""
    return np.asarray(features / np.linalg.norm(features, axis=-1, keepdims=True))


def text_alignment(pictures: Array, texts: Array) -> Array:
    """CLIP-T: the cosine [n] of each picture [n, d] with its text [n, d].

    Gal et al., 2022 (arXiv:2208.01618), Ruiz et al., 2023 (arXiv:2208.12242).
    """
    return np.asarray((pictures * texts).sum(axis=-1))


def image_similarity(pictures: Array, real: Array) -> Array:
    """CLIP-I: each picture's mean cosine [n] with all real ones [m, d]. Its mean is the mean over all pairs."""
    return np.asarray((pictures @ real.T).mean(axis=1))


def nearest_similarity(pictures: Array, real: Array) -> Array:
    """Each picture's largest cosine [n] with a real one. It is near 1 for a copy of a training picture."""
    return np.asarray((pictures @ real.T).max(axis=1))


def diversity(pictures: Array) -> float | None:
    """Mean distance 1 − cos over all pairs of different pictures, 0 if all are equal; None for fewer than two."""
    count = len(pictures)
    if count < 2:
        return None
    cosines = (pictures @ pictures.T)[np.triu_indices(count, k=1)]
    return float((1.0 - cosines).mean())


def leave_one_out(real: Array) -> tuple[float, float] | None:
    """Real pictures compared with each other: (mean, largest) cosine of each with the others; None for one picture."""
    count = len(real)
    if count < 2:
        return None
    others = ~np.eye(count, dtype=bool)
    cosines = (real @ real.T)[others].reshape(count, count - 1)
    return float(cosines.mean()), float(cosines.max(axis=1).mean())


def kid(pictures: Array, real: Array) -> float | None:
    """KID on CLIP features: unbiased MMD² with the kernel (cos + 1)³; None if a set has fewer than two pictures.

    Bińkowski et al., 2018 (arXiv:1801.01401): k(x, y) = (xᵀy/d + 1)³, here with features of length √d, so that
    xᵀy/d is their cosine. If both sets come from the same distribution, the value is near 0 and may be negative. No
    subsets are sampled, because there are tens of pictures, not thousands.
    """
    n, m = len(pictures), len(real)
    if n < 2 or m < 2:
        return None
    own, other, across = ((a @ b.T + 1.0) ** 3 for a, b in ((pictures, pictures), (real, real), (pictures, real)))
    first = (own.sum() - np.trace(own)) / (n * (n - 1))
    second = (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(first + second - 2.0 * across.mean())


def cmmd(pictures: Array, real: Array) -> float:
    """CMMD: 1000 · MMD² with the kernel exp(−|x − y|²/2σ²), σ = 10, biased; 0 for equal sets.

    Jayasumana et al., 2024 (arXiv:2401.09603). Values can be compared only if they were measured with the same CLIP.
    """

    def kernel(a: Array, b: Array) -> float:
        squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
        return float(np.exp(-squares / (2.0 * SIGMA**2)).mean())

    return SCALE * (kernel(pictures, pictures) + kernel(real, real) - 2.0 * kernel(pictures, real))


def spread(values: Array) -> tuple[float, float | None]:
    """Mean of ``values`` [prompts, seeds], and the standard deviation (n − 1) between seeds; None for one seed.

    A seed's value is its mean over all prompts, so the spread is roughly the change that another seed would cause.
    """
    seeds = values.mean(axis=0)
    return float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else None


def significant(value: float | None, digits: int = 6) -> float | None:
    """``value`` rounded to ``digits`` significant digits, so that outs contain no rounding errors; None stays None."""
    return None if value is None else float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class MetricInputs:
    """The inputs of one candidate's metrics."""

    pictures: Array  # of its pictures: unit features [prompts, seeds, d]
    texts: Sequence[Array | None]  # for each prompt [d]; None if the prompt has no text for CLIP
    real: Array  # the training pictures [m, d]
    loss: float  # the validation loss

    @property
    def flat(self) -> Array:
        """All pictures [prompts · seeds, d]."""
        return self.pictures.reshape(-1, self.pictures.shape[-1])

    def by_prompt(self, values: Array) -> Array:
        """Values of all pictures [prompts · seeds] as [prompts, seeds]."""
        return values.reshape(self.pictures.shape[:2])


def _alignments(inputs: MetricInputs) -> Array:
    """Cosine of each picture with its prompt [prompts, seeds]; NaN in rows without a text."""
    rows = []
    for row, text in zip(inputs.pictures, inputs.texts, strict=True):
        rows.append(np.full(len(row), np.nan) if text is None else text_alignment(row, text[None]))
    return np.stack(rows)


def _diversity_by_prompt(inputs: MetricInputs) -> float | None:
    """The mean diversity over the prompts; None if prompts have fewer than two pictures."""
    apart = [distance for prompt in inputs.pictures if (distance := diversity(prompt)) is not None]
    return float(np.mean(apart)) if apart else None


# values [prompts, seeds]; a prompt with NaN does not count
OF_A_PICTURE: Mapping[str, Callable[[MetricInputs], Array]] = {
    "image_similarity": lambda inputs: inputs.by_prompt(image_similarity(inputs.flat, inputs.real)),
    "nearest_similarity": lambda inputs: inputs.by_prompt(nearest_similarity(inputs.flat, inputs.real)),
    "text_alignment": _alignments,
}
# one number for all pictures, without a spread between seeds
OF_A_SET: Mapping[str, Callable[[MetricInputs], float | None]] = {
    "diversity": _diversity_by_prompt,
    "kid": lambda inputs: kid(inputs.flat, inputs.real),
    "cmmd": lambda inputs: cmmd(inputs.flat, inputs.real),
    "validation_loss": lambda inputs: inputs.loss,
}


def ceiling(real: Array) -> dict[str, float]:
    """The same metrics of the real pictures, each compared with the others; empty if there is only one."""
    scores, apart = leave_one_out(real), diversity(real)
    if scores is None or apart is None:
        return {}
    metrics = {"image_similarity": scores[0], "nearest_similarity": scores[1], "diversity": apart}
    return {name: significant(value) or 0.0 for name, value in metrics.items()}
