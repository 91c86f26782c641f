"""A set's contents, read from what prepare and caption wrote of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from etude.core.files import write_json
from etude.inspection.contents import Contents, read_set
from etude.inspection.counts import count_training_sizes


def entry(source: str, size: tuple[int, int] = (64, 64), **facts: Any) -> dict[str, Any]:
    box = {"crop": [0, 0, 80, 60], "source_size": [80, 60], "enlarged": False}
    return {"sources": [source], "size": list(size), **box, **facts}


def read(tmp_path: Path, images: dict[str, dict[str, Any]], near: list[list[str]] | None = None) -> Contents:
    """The set of these entries of images.json; their files are made."""
    raw, made = tmp_path / "raw", tmp_path / "data" / "pets"
    raw.mkdir()
    for name in {source for facts in images.values() for source in facts["sources"]}:
        Image.new("RGB", (80, 60)).save(raw / name)
    listing = {"images": images, "skipped": {}, "near_duplicates": near or [], "notes": {}}
    write_json(made / "prepared" / "images.json", listing)
    texts = {identifier: {"text": "a fox", "from": "name"} for identifier, facts in images.items() if "of" not in facts}
    write_json(made / "captioned" / "captions.json", texts)
    return read_set("pets", raw, made)


def test_pictures_that_a_chain_of_pairs_connects_are_one_group_and_the_largest_group_comes_first(
    tmp_path: Path,
) -> None:
    images = {name: entry(f"{name}.png") for name in "abcdefghi"}
    near = [["h", "i"], ["a", "b"], ["f", "c"], ["e", "f"], ["d", "e"]]
    found = read(tmp_path, images, near).near
    assert found == (("c.png", "d.png", "e.png", "f.png"), ("a.png", "b.png"), ("h.png", "i.png"))


def test_parts_of_one_file_that_look_alike_are_no_near_duplicates(tmp_path: Path) -> None:
    assert read(tmp_path, {"1": entry("a.png"), "2": entry("a.png")}, [["1", "2"]]).near == ()


def test_copies_are_counted_and_the_most_frequent_training_size_comes_first(tmp_path: Path) -> None:
    images = {
        "1": entry("a.png", (96, 64)),
        "2": entry("b.png", (64, 96)),
        "3": entry("c.png", (64, 64)),
        "4": entry("c.png", (64, 64)),
        "5": entry("b.png", (64, 96), of="2"),
    }
    contents = read(tmp_path, images)
    assert contents.copies == 1
    assert list(count_training_sizes(contents).counts.items()) == [("64×64", 2), ("64×96", 1), ("96×64", 1)]
    assert contents.pictures["a.png"].target == (96, 64)


@pytest.mark.parametrize("chunks", [1, 3])
def test_each_chunk_reads_75_tokens_of_a_caption(tmp_path: Path, chunks: int) -> None:
    read(tmp_path, {"1": entry("a.png")})
    text = "cat " * 75 * chunks
    write_json(tmp_path / "data/pets/captioned/captions.json", {"1": {"text": text + "dog", "from": "name"}})
    contents = read_set("pets", tmp_path / "raw", tmp_path / "data/pets", chunks)
    assert contents.read == 75 * chunks
    assert contents.pictures["a.png"].captions["1"].length == (75 * chunks + 1, "dog")
