"""Prepared pictures in batches, for captioners that see several at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from etude.core.pictures import open_prepared


def open_batches(pictures: Iterable[Path], size: int) -> Iterator[list[Image.Image]]:
    """The RGB images of up to ``size`` of ``pictures`` at a time, in their order; raises InputError as they are read.

    ``pictures`` may show progress: a path is taken from it when its picture is opened.
    """
    batch: list[Image.Image] = []
    for path in pictures:
        batch.append(open_prepared(path).convert("RGB"))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
