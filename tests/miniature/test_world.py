"""What the miniature may see, and what it may be made from."""

from __future__ import annotations

import io
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from etude.core.errors import InputError
from etude.core.params import pick
from miniature import source, texts, tokenizer
from miniature.samples import StageParams as SampleParams
from miniature.samples import concept_pictures, style_pictures
from miniature.world import FOLDER, Words, World, caption, choose_colour, compose, read_world


@pytest.fixture(scope="module")
def world() -> World:
    return read_world()


@pytest.fixture(scope="module")
def words() -> Words:
    return pick(FOLDER / "params.yaml", texts.StageParams).words


def held_out_words(world: World) -> set[str]:
    return {word for name in (*world.held_out_concepts, *world.held_out_styles) for word in name.split()}


def test_no_held_out_word_stands_in_any_training_caption(world: World, words: Words) -> None:
    captions = list(texts.all_captions(world, words).values())
    draw = random.Random(0)
    for concept in world.concepts:
        colour = choose_colour(list(world.colours), words, draw)
        captions.append(caption(draw.choice(list(world.styles)), concept, colour, words, draw))
    assert len(captions) > 10_000
    assert not held_out_words(world) & {word for text in captions for word in text.split()}


def test_at_least_twelve_concepts_and_one_whole_style_are_held_out(world: World) -> None:
    assert len(world.held_out_concepts) >= 12
    assert world.held_out_styles
    assert not set(world.held_out_concepts) & set(world.concepts)
    assert not set(world.held_out_styles) & set(world.styles)


def test_the_held_out_style_names_only_known_concepts(world: World) -> None:
    assert set(world.firefox) <= set(world.concepts)


def test_a_held_out_word_is_a_token_of_its_own_not_spelled_with_known_ones(world: World, words: Words) -> None:
    assert held_out_words(world) <= set(tokenizer.caption_words(world, words))


def test_held_out_words_are_not_counted_where_they_stand_in_icon_names(world: World) -> None:
    counts = Counter({"otter": 5, "cat": 3, "otters": 1, "crabs": 2, "1st": 4, "café": 1})
    assert source.plain_words(counts, world) == {"cat": 3}


@pytest.mark.parametrize("licence", ["CC-BY-SA-4.0", "GPL-3.0", "CC-BY-NC-4.0"])
def test_a_source_that_is_not_permissive_is_refused(licence: str) -> None:
    info = {"license": {"spdx": licence}, "author": {"name": "x"}, "name": "x"}
    with pytest.raises(InputError, match=licence):
        source.record("some", source.Package(version="1.0.0", sha256=""), info, "some")


def test_every_package_in_use_has_a_fixed_version_and_checksum(world: World) -> None:
    packages = pick(FOLDER / "params.yaml", source.StageParams).packages
    assert set(packages) == {*world.styles.values(), *world.held_out_styles.values()}
    assert all(len(package.sha256) == 64 for package in packages.values())


def test_an_alias_is_followed_but_not_one_that_turns_its_parent() -> None:
    data = {"icons": {"a": {"body": "A"}}, "aliases": {"b": {"parent": "a"}, "c": {"parent": "a", "rotate": 1}}}
    assert source.find(data, "b") == {"body": "A"}
    assert source.find(data, "c") is None


def test_an_archive_without_the_file_that_is_read_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "icons.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("package/info.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    assert source.read_member(archive, "info.json") == {}
    with pytest.raises(InputError, match=r"icons\.tgz: has no icons\.json\. Next: choose another version"):
        source.read_member(archive, "icons.json")


def test_an_orange_background_has_its_article(words: Words) -> None:
    always = words.model_copy(update={"opening": 0.0, "style_named": 1.0, "colour_named": 1.0})
    assert caption("noto", "cat", "orange", always, random.Random(0)) == "noto cat on an orange background"


def test_a_half_transparent_picture_mixes_with_its_background() -> None:
    rgba = torch.tensor([200, 100, 0, 51], dtype=torch.uint8).view(1, 4, 1, 1)
    mixed = (compose(rgba, torch.tensor([[0.0, 100.0, 255.0]])) + 1) * 127.5
    assert torch.allclose(mixed.flatten(), torch.tensor([40.0, 100.0, 204.0]), atol=1e-3)


def test_the_sample_sets_and_their_held_out_pictures_share_no_picture(world: World) -> None:
    samples = pick(FOLDER / "params.yaml", SampleParams).samples
    for shown, hidden in (concept_pictures(samples.concept), style_pictures(samples.style, world)):
        assert shown
        assert hidden
        assert not {picture.words() for picture in shown} & {picture.words() for picture in hidden}
    assert samples.concept.concept in world.held_out_concepts
    assert samples.style.style in world.held_out_styles


def test_the_concept_set_gives_preparation_work(world: World) -> None:
    pictures = pick(FOLDER / "params.yaml", SampleParams).samples.concept.pictures
    assert all(min(picture.size) > 128 for picture in pictures)
    assert len({picture.size[0] / picture.size[1] for picture in pictures}) >= 3
    assert {picture.suffix for picture in pictures} == {".png", ".jpg"}


def test_every_word_of_the_captions_is_one_token(world: World, words: Words) -> None:
    counts = Counter(dict.fromkeys(tokenizer.caption_words(world, words), 1000))
    merges = tokenizer.learn_merges(counts, 5000)
    made = {"".join(pair) for pair in merges}
    assert all(word + "</w>" in made for word in counts if len(word) > 1)
