"""The metrics of an evaluation, one record each. Nothing is computed here, so that all code may import the list.

A new metric is a record in `METRICS`, its computation in `etude/evaluation`, and a test; `make schemas` then lets
editors complete its key. Columns, tiles and charts have the order of this list: the most important metrics come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Better = Literal["higher", "lower", ""]
Need = Literal["held-out pictures", "classifier"]
Place = Literal["page", "report", "table"]
HELD_OUT: Final = "held-out pictures"
CLASSIFIER: Final = "classifier"
PAGE: Final = "page"
REPORT: Final = "report"
TABLE: Final = "table"


@dataclass(frozen=True)
class Metric:
    """The description of a metric.

    ``shown``: the places that show it. "page" is a tile and a chart on a method's page, "report" a chart in the report,
    "table" a column of the report's table. The table of checkpoints shows all metrics.
    """

    key: str  # in params.yaml, metrics.json and CSV files
    name: str
    better: Better  # "": neither is better
    question: str  # the question that its values answer
    about: str  # how it is measured
    shown: tuple[Place, ...]
    needs: tuple[Need, ...] = ()  # in addition to the training pictures

    @property
    def sign(self) -> int:
        """1, or -1 if lower is better: a value times this is always better if it is larger."""
        return -1 if self.better == "lower" else 1


METRICS = (
    Metric(
        "heldout_similarity", "Held-out similarity", "higher", "Is it similar to the held-out pictures?",
        "CLIP cosine with the held-out pictures that fit each prompt",
        shown=(PAGE, REPORT, TABLE), needs=(HELD_OUT,),
    ),
    Metric(
        "concept_accuracy", "Concept accuracy", "higher", "Is it the concept?",
        "share of pictures in which the classifier finds the prompt's concept",
        shown=(PAGE, REPORT, TABLE), needs=(HELD_OUT, CLASSIFIER),
    ),
    Metric(
        "style_similarity", "Style similarity", "higher", "Is it drawn in that style?",
        "CLIP cosine with all held-out pictures of the style",
        shown=(PAGE, REPORT, TABLE), needs=(HELD_OUT, CLASSIFIER),
    ),
    Metric(
        "style_accuracy", "Style accuracy", "higher", "Is it the style?",
        "share of pictures in which the classifier finds the prompt's style",
        shown=(PAGE, REPORT, TABLE), needs=(HELD_OUT, CLASSIFIER),
    ),
    Metric(
        "background_accuracy", "Background accuracy", "higher", "Is it on the prompt's background?",
        "share of pictures in which the classifier finds the prompt's background",
        shown=(TABLE,), needs=(HELD_OUT, CLASSIFIER),
    ),
    Metric(
        "image_similarity", "Image similarity", "higher", "Does it look like the pictures?",
        "CLIP cosine with the training pictures, over all pairs",
        shown=(PAGE, REPORT, TABLE),
    ),
    Metric(
        "nearest_similarity", "Nearest picture", "", "Is it a copy of a training picture?",
        "CLIP cosine with the nearest training picture; 1 is a copy",
        shown=(TABLE,),
    ),
    Metric(
        "text_alignment", "Text alignment", "higher", "Does it show what the prompt says?",
        "CLIP cosine with the prompt without the learned name",
        shown=(PAGE, TABLE),
    ),
    Metric(
        "diversity", "Diversity", "", "Do other seeds give other pictures?",
        "1 − cosine between pictures of one prompt; 0 when all seeds look alike",
        shown=(TABLE,),
    ),
    Metric(
        "kid", "KID", "lower", "Are the sets of drawn and training pictures similar?",
        "distance between the sets of pictures, unbiased, in CLIP's space; imprecise for few pictures",
        shown=(),
    ),
    Metric(
        "cmmd", "CMMD", "lower", "Are the sets of drawn and training pictures similar?",
        "distance between the sets of pictures in CLIP's space, in thousandths",
        shown=(TABLE,),
    ),
    Metric(
        "validation_loss", "Validation loss", "lower", "Does it predict the training pictures?",
        "error at fixed noise and timesteps on training pictures",
        shown=(PAGE, TABLE),
    ),
)  # fmt: skip
BY_KEY: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}


def shown_in(place: Place) -> list[Metric]:
    """The metrics that ``place`` shows, in the order of the list."""
    return [metric for metric in METRICS if place in metric.shown]


def measured(tables: Iterable[Mapping[str, object]]) -> list[Metric]:
    """The metrics with a value other than None in at least one of ``tables`` (metric → value or values)."""
    keys = {key for table in tables for key, value in table.items() if value is not None}
    return [metric for metric in METRICS if metric.key in keys]
