"""Pictures in batches: a text depends on its picture alone."""

from pathlib import Path

import pytest
from PIL import Image

from etude.captions.batches import describe_batches
from tests.tasks.front import draw


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_every_batch_has_the_same_number_of_images_and_every_picture_its_text(count: int, tmp_path: Path) -> None:
    pictures = [draw(tmp_path / f"{number}.png", number, (40 + number, 40)) for number in range(count)]
    sizes = []

    def describe(images: list[Image.Image]) -> list[str]:
        sizes.append(len(images))
        return [f"{image.mode} {image.width}" for image in images]

    assert list(describe_batches(iter(pictures), 3, describe)) == [f"RGB {40 + number}" for number in range(count)]
    assert sizes == [3] * -(-count // 3)
