"""Prepared pictures in batches, for captioners that see several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from etude.core.pictures import open_prepared


def describe_batches(
    pictures: Iterable[Path], size: int, describe: Callable[[list[Image.Image]], list[str]]
) -> Iterator[str]:
    """The text of each picture, by ``describe``, which sees ``size`` RGB images at a time.

    The last batch is filled up with its last image, so that all batches have the same size: the last digits, which can
    decide between two words, then do not depend on the number of pictures. ``pictures`` may show progress: a path is
    taken from it when its picture is opened. Raises InputError for a picture that cannot be read.
    """
    paths = iter(pictures)
    while images := [open_prepared(path).convert("RGB") for path in islice(paths, size)]:
        filled = images + [images[-1]] * (size - len(images))
        yield from describe(filled)[: len(images)]
