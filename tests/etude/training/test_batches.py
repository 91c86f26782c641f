from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from etude.base.conditioning import Conditioning
from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.tensors import write_tensors
from etude.training.batches import Batches, Captions, Images, load_captions, load_images, load_pictures


def images(*sizes: int) -> Images:
    """One image for each size: its latents hold its number."""
    tensors = tuple(torch.full((4, size, size), float(i)) for i, size in enumerate(sizes))
    return Images(tuple(f"image{i}" for i in range(len(sizes))), tensors, tensors)


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    pictures = images(*[8] * 10)
    one, two = (Batches(pictures, None, batch_size=4, seed=3) for _ in range(2))
    order = [one(i).names for i in range(12)]
    assert [two(i).names for i in reversed(range(12))] == order[::-1]
    assert [Batches(pictures, None, batch_size=4, seed=4)(i).names for i in range(12)] != order


def test_every_image_is_seen_once_before_any_is_seen_twice() -> None:
    batches = Batches(images(*[8] * 10), None, batch_size=4, seed=0)
    seen = [name for i in range(15) for name in batches(i).names]
    for epoch in range(6):
        assert len(set(seen[10 * epoch : 10 * epoch + 10])) == 10


def test_a_set_smaller_than_a_batch_still_fills_it() -> None:
    batch = Batches(images(8, 8), None, batch_size=5, seed=0)(0)
    assert batch.mean.shape == (5, 4, 8, 8)
    assert set(batch.names) == {"image0", "image1"}


def test_images_of_one_size_go_together_and_all_sizes_get_their_turn() -> None:
    batches = Batches(images(8, 16, 8, 16, 16, 8, 8), None, batch_size=2, seed=0)
    seen: list[str] = []
    for i in range(8):
        batch = batches(i)
        assert len({batch.mean.shape[-1]}) == 1
        seen += batch.names
    assert set(seen) == {f"image{i}" for i in range(7)}


def test_latents_and_captions_stay_with_their_image() -> None:
    pictures = images(*[8] * 6)
    conditioning = {name: Conditioning(torch.full((1, 77, 2), float(i))) for i, name in enumerate(pictures.names)}
    captions = Captions(
        {name: f"text of {name}" for name in pictures.names}, conditioning, Conditioning(torch.zeros(1, 77, 2))
    )
    batch = Batches(pictures, captions, batch_size=4, seed=0)(1)
    assert batch.conditioning is not None
    for position, name in enumerate(batch.names):
        number = float(name.removeprefix("image"))
        assert batch.mean[position].eq(number).all()
        assert batch.conditioning.hidden[position].eq(number).all()
        assert batch.texts[position] == f"text of {name}"


def test_an_image_without_a_caption_is_named() -> None:
    captions = Captions({}, {}, Conditioning(torch.zeros(1, 77, 2)))
    with pytest.raises(InputError, match="image0"):
        Batches(images(8), captions, batch_size=1, seed=0)


def test_what_encode_wrote_is_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "latents/a.safetensors", {"mean": torch.ones(4, 8, 8), "logvar": torch.zeros(4, 8, 8)})
    write_tensors(tmp_path / "texts/h1.safetensors", {"hidden": torch.ones(77, 2)})
    write_tensors(tmp_path / "texts/h0.safetensors", {"hidden": torch.zeros(77, 2)})
    write_json(tmp_path / "texts/index.json", {"captions": {"a": {"text": "cat", "file": "h1"}}, "empty": "h0"})
    read, captions = load_images(tmp_path / "latents"), load_captions(tmp_path / "texts")
    assert read.names == ("a",)
    assert captions.texts == {"a": "cat"}
    assert captions.conditioning["a"].hidden.shape == (1, 77, 2)
    assert captions.empty.hidden.eq(0).all()
    with pytest.raises(InputError, match="no latents"):
        load_images(tmp_path / "nothing")


def test_pictures_come_in_the_order_of_their_names_with_their_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.png")
    found = load_pictures(tmp_path)
    assert found.names == ("a", "b")
    assert [tuple(pixels.shape) for pixels in found.pixels] == [(8, 8, 3), (4, 6, 3)]
    assert found.pixels[1][0, 0].tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="holds no pictures"):
        load_pictures(tmp_path / "none")


def test_masks_come_with_their_pictures_and_a_picture_without_one_weighs_evenly() -> None:
    pictures = images(8, 8, 8)
    assert Batches(pictures, None, batch_size=3, seed=0)(0).attention is None
    masks = (torch.zeros(8, 8), None, torch.ones(8, 8))
    masked = Images(pictures.names, pictures.mean, pictures.logvar, masks)
    batch = Batches(masked, None, batch_size=3, seed=0)(0)
    assert batch.attention is not None
    assert batch.attention.shape == (3, 1, 8, 8)
    found = {name: float(mask.mean()) for name, mask in zip(batch.names, batch.attention, strict=True)}
    assert found == pytest.approx({"image0": 0.0, "image1": 127 / 255, "image2": 1.0})


def test_a_text_that_many_pictures_share_lies_on_the_device_once() -> None:
    pictures, said = images(8, 8, 8), Conditioning(torch.zeros(1, 77, 2))
    texts = dict.fromkeys(pictures.names, "a cat")
    captions = Captions(texts, dict.fromkeys(pictures.names, said), said)
    moved = Batches(pictures, captions, batch_size=1, seed=0, device="meta").conditioning
    assert len({id(each.hidden) for each in moved.values()}) == 1
    assert moved["image0"].hidden.is_meta
