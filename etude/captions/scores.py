"""From a tagger's scores of pictures to their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from etude.captions.tags import RATING, Tag, Tags, write_tags

Array = NDArray[np.floating]


def write_all(table: Sequence[Tag], scores: Array, thresholds: Mapping[str, float], settings: Tags) -> list[str]:
    """The text of each picture, from its scores [n, tags] (0 to 1) for the tags in ``table``.

    Scores are compared with thresholds in float32, as in the original programs, whose networks return float32.
    """
    exact = {category: float(np.float32(threshold)) for category, threshold in thresholds.items()}
    likely = (scores >= min(exact.values())) | np.array([tag.category == RATING for tag in table])  # some of thousands
    texts = []
    for row, places in zip(scores, likely, strict=True):
        scored = [table[place]._replace(score=float(row[place])) for place in np.flatnonzero(places).tolist()]
        texts.append(write_tags(scored, exact, settings))
    return texts
