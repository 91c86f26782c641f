from __future__ import annotations

import gc
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from etude.base.conditioning import Conditioning
from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.shards import Shards, text_entry, write_shards
from etude.training.batches import (
    AHEAD,
    Batches,
    Captions,
    Images,
    Place,
    load_captions,
    load_images,
    load_pictures,
    read_repeats,
)


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


def test_repeated_images_occur_as_often_as_their_repeats_say_and_only_the_ratios_count() -> None:
    pictures = replace(images(8, 8, 16, 8), repeats=(3, 1, 2, 0))
    batches, doubled = (
        Batches(replace(pictures, repeats=[factor * number for number in (3, 1, 2, 0)]), None, batch_size=2, seed=0)
        for factor in (1, 2)
    )
    order = [batches(i).names for i in range(6)]
    assert [doubled(i).names for i in range(6)] == order
    for epoch in range(2):
        seen = [name for names in order[3 * epoch : 3 * epoch + 3] for name in names]
        assert {name: seen.count(name) for name in seen} == {"image0": 3, "image1": 1, "image2": 2}
    plain, equal = images(*[8] * 10), replace(images(*[8] * 10), repeats=[7] * 10)
    assert [Batches(equal, None, batch_size=4, seed=3)(i).names for i in range(9)] == [
        Batches(plain, None, batch_size=4, seed=3)(i).names for i in range(9)
    ]


def test_repeats_are_those_of_each_folder_times_those_of_its_pictures(tmp_path: Path) -> None:
    for name, numbers in (("a", {"x": 3, "y": 0}), ("b", {})):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "repeats.json", numbers)
    places = Place("", tmp_path / "a", 2), Place("b/", tmp_path / "b", 5), Place("c/", tmp_path / "c")
    assert list(read_repeats(["x", "y", "z", "b/x", "c/x"], *places)) == [6, 0, 2, 5, 1]
    assert not read_repeats(["b/x", "b/y"], *places)  # all count the same
    with pytest.raises(InputError, match="no picture counts: the number in the name"):
        read_repeats(["y"], *places)


def test_sizes_come_with_their_pictures_where_they_are_asked_for_and_there(tmp_path: Path) -> None:
    moments = {"mean": torch.zeros(4, 8, 8), "logvar": torch.zeros(4, 8, 8)}
    sizes = {"a": torch.arange(6.0), "b": torch.arange(6.0) + 10}
    for folder, entries in (("told", sizes), ("untold", {"a": None})):
        (tmp_path / folder).mkdir()
        extra = {name: {} if size is None else {"sizes": size} for name, size in entries.items()}
        write_shards(tmp_path / folder, entries, lambda name, extra=extra: moments | extra[name])
    assert not load_images(tmp_path / "told").sizes
    assert not load_images(tmp_path / "untold", sizes=True).sizes
    batch = Batches(load_images(tmp_path / "told", sizes=True), None, batch_size=2, seed=0)(0)
    assert batch.sizes is not None
    assert {name: size[0].item() for name, size in zip(batch.names, batch.sizes, strict=True)} == {"a": 0, "b": 10}


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


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """What *encode* writes of 300 pictures, each with its own text."""
    names = [f"{number:03d}" for number in range(300)]
    texts = {name: f"picture {name}" for name in names}
    entries = {text_entry(text): float(text[-3:] or -1) for text in ("", *texts.values())}
    (tmp_path / "latents").mkdir()
    (tmp_path / "texts").mkdir()
    write_shards(tmp_path / "latents", names, lambda name: {key: full(float(name)) for key in KEYS})
    write_shards(tmp_path / "texts", entries, lambda entry: {"hidden": torch.full((77, 64), entries[entry])})
    write_json(tmp_path / "texts/captions.json", texts)
    return tmp_path


def full(value: float) -> Tensor:
    return torch.full((4, 16, 16), value)


def test_what_encode_wrote_comes_in_batches_each_picture_with_its_text(encoded: Path) -> None:
    read, captions = load_images(encoded / "latents"), load_captions(encoded / "texts")
    assert read.names == tuple(f"{number:03d}" for number in range(300))
    assert captions.empty.hidden.eq(-1).all()
    batches = Batches(read, captions, batch_size=7, seed=0)
    for index in range(5):
        batch = batches(index)
        assert batch.conditioning is not None
        for position, name in enumerate(batch.names):
            assert batch.mean[position].eq(float(name)).all()
            assert batch.conditioning.hidden[position].eq(float(name)).all()
            assert batch.texts[position] == f"picture {name}"
    assert Batches(read, captions, batch_size=7, seed=0, encoded=False)(0).conditioning is None


def test_only_the_pictures_of_a_batch_and_of_those_ahead_are_read(
    encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    data = Shards.data
    read, captions = load_images(encoded / "latents"), load_captions(encoded / "texts")
    batches = Batches(read, captions, batch_size=2, seed=0)
    monkeypatch.setattr(Shards, "data", lambda shards, position: (used.append(position), data(shards, position))[1])
    batches(0)
    batches._thread.shutdown()
    assert len(used) == (1 + AHEAD) * 2 * 3  # mean, spread and text of each picture


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_in_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """48 MB of latents, of which no batch holds more than 2."""
    write_shards(tmp_path, [f"{n:02d}" for n in range(24)], lambda _: {key: torch.ones(4, 256, 256) for key in KEYS})
    gc.collect()
    before = resident()
    batches = Batches(load_images(tmp_path), None, batch_size=1, seed=0)
    batch = batches(0)
    batches._thread.shutdown()
    assert batch.mean.sum() == 4 * 256 * 256
    assert resident() - before < 24 << 20


KEYS = ("mean", "logvar")


def resident() -> int:
    """Bytes of this process in memory, with the parts of mapped files that were read."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_batches_made_ahead_are_those_that_are_asked_for_one_by_one(
    encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = load_images(encoded / "latents")
    order = [0, 1, 2, 3, 1, 2, 90, 91, 5]
    ahead = Batches(read, None, batch_size=4, seed=3)
    found = [ahead(index).names for index in order]
    monkeypatch.setattr("etude.training.batches.AHEAD", 0)
    assert [Batches(read, None, batch_size=4, seed=3)(index).names for index in order] == found


def test_each_process_makes_its_own_batches_ahead(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    batches = Batches(load_images(encoded / "latents"), None, batch_size=4, seed=3)
    made: list[int] = []
    read = batches._read
    monkeypatch.setattr(batches, "_read", lambda index: (made.append(index), read(index))[1])
    for index in (1, 4, 7):
        batches(index)
    batches._thread.shutdown()
    assert sorted(made) == [1, 4, 7, 10, 13]


def test_an_error_in_the_thread_is_raised_where_its_batch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(images(*[8] * 10), None, batch_size=2, seed=0)

    def fail(_index: int) -> None:
        raise OSError("the disk is gone")

    batches(0)
    monkeypatch.setattr(batches, "_read", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        for index in range(1, AHEAD + 2):
            batches(index)


def test_a_caption_that_is_not_encoded_and_an_empty_folder_are_named(encoded: Path) -> None:
    with pytest.raises(InputError, match="latents: is missing or empty"):
        load_images(encoded / "nothing/latents")
    write_json(encoded / "texts/captions.json", {"000": "another"})
    with pytest.raises(InputError, match="the text `another`: is not encoded"):
        load_captions(encoded / "texts")


def test_pictures_come_in_the_order_of_their_names_with_their_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "black").save(tmp_path / "a-copy1.png")
    write_json(tmp_path / "images.json", {"images": {"a": {}, "a-copy1": {"of": "a"}, "b": {}}})
    found = load_pictures(tmp_path)
    assert found.names == ("a", "b")
    assert [tuple(pixels.shape) for pixels in found.pixels] == [(8, 8, 3), (4, 6, 3)]
    assert found.pixels[1][0, 0].tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="holds no pictures"):
        load_pictures(tmp_path / "none")


def test_masks_come_with_their_pictures_and_a_picture_without_one_counts_wholly() -> None:
    pictures = images(8, 8, 8)
    assert Batches(pictures, None, batch_size=3, seed=0)(0).attention is None
    masks = (torch.zeros(8, 8), None, torch.ones(8, 8))
    masked = Images(pictures.names, pictures.mean, pictures.logvar, masks)
    batch = Batches(masked, None, batch_size=3, seed=0)(0)
    assert batch.attention is not None
    assert batch.attention.shape == (3, 1, 8, 8)
    found = {name: float(mask.mean()) for name, mask in zip(batch.names, batch.attention, strict=True)}
    assert found == {"image0": 0.0, "image1": 1.0, "image2": 1.0}
    other = Batches(masked, None, batch_size=3, seed=0, unmasked=0.5)(0).attention
    assert other is not None
    assert sorted(other.mean(dim=(1, 2, 3)).tolist()) == [0.0, 0.5, 1.0]


def test_a_batch_comes_to_the_device_as_a_whole_and_nothing_else_does() -> None:
    pictures, said = images(8, 8, 8), Conditioning(torch.zeros(1, 77, 2))
    captions = Captions(dict.fromkeys(pictures.names, "a cat"), dict.fromkeys(pictures.names, said), said)
    masked = replace(pictures, attention=[torch.ones(8, 8)] * 3, cells=[torch.ones(8, 8)] * 3)
    masked = replace(masked, sizes=[torch.ones(6)] * 3)
    batch = Batches(masked, captions, batch_size=2, seed=0, device="meta")(0)
    assert batch.conditioning is not None
    tensors = (batch.mean, batch.logvar, batch.attention, batch.cells, batch.sizes)
    assert all(each is not None and each.is_meta for each in tensors)
    assert batch.conditioning.hidden.is_meta
    assert not any(mean.is_meta for mean in pictures.mean)


def test_batches_for_a_gpu_are_made_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From there a GPU reads while the host goes on. Without a GPU no memory can be pinned: the call is watched."""
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: (pinned.append(tensor.clone()), pinned[-1])[1])
    pictures, said = images(8, 8), Conditioning(torch.zeros(1, 77, 2), torch.zeros(1, 3))
    captions = Captions(dict.fromkeys(pictures.names, "a cat"), dict.fromkeys(pictures.names, said), said)
    masked = replace(pictures, attention=[torch.ones(8, 8)] * 2)
    batch = Batches(masked, captions, batch_size=2, seed=0, device="cuda:0")._made(0)
    assert batch.conditioning is not None
    every = (batch.mean, batch.logvar, batch.attention, batch.conditioning.hidden, batch.conditioning.pooled)
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in every}
