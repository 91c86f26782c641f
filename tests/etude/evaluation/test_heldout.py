from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etude.core.errors import EtudeWarning, InputError
from etude.evaluation.classifier import Classifier, Labels
from etude.evaluation.features import ClipFeatures
from etude.evaluation.heldout import HeldOut, find_heldout
from etude.evaluation.metrics import unit
from etude.evaluation.settings import Evaluate
from tests.classifying import write_classifier

COLOURS = {"on a red background": (200, 0, 0), "on a blue background": (0, 0, 200)}


class ByColour(Classifier):
    """Names the background by its colour and takes everything else for a cat in the style noto."""

    def classify(self, picture: Image.Image) -> Labels:
        red, _, blue = picture.resize((1, 1)).getpixel((0, 0))
        return {"concept": "cat", "style": "noto", "background": list(COLOURS)[int(blue > red)]}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return ByColour(write_classifier(tmp_path_factory.mktemp("classifier")), device="cpu")


@pytest.fixture
def clip(tiny_base: Path, tmp_path: Path) -> ClipFeatures:
    return ClipFeatures(tiny_base / "clip", device="cpu", threads=1, root=tmp_path / "cache")


def heldout(classifier: Classifier | None, *captions: str) -> HeldOut:
    """Kept-back pictures by their captions; their features are unit vectors, each in a direction of its own."""
    shown = [classifier.read_labels(text) if classifier else {} for text in captions]
    return HeldOut([Path(text) for text in captions], np.eye(len(captions)), shown, classifier)


def test_what_all_held_out_pictures_have_in_common_is_the_lesson(classifier: Classifier) -> None:
    assert heldout(classifier, "noto otter", "flat otter on a red background").lesson == {"concept": "otter"}
    assert heldout(classifier, "firefox cat", "firefox otter").lesson == {"style": "firefox"}


def test_a_prompt_asks_for_the_lesson_where_the_name_stands_and_for_what_it_says(classifier: Classifier) -> None:
    kept = heldout(classifier, "noto otter", "flat otter")
    assert kept.expected("flat [name] on a red background") == {
        "concept": "otter",
        "style": "flat",
        "background": "on a red background",
    }
    assert kept.expected("noto cat") == {"concept": "cat", "style": "noto"}
    assert heldout(None, "noto otter").expected("flat [name]") == {}


def test_the_held_out_pictures_of_a_prompt_show_most_of_what_it_asks_for(classifier: Classifier) -> None:
    kept = heldout(classifier, "noto otter", "flat otter", "flat otter on a blue background")
    assert kept.of("[name]").tolist() == np.eye(3).tolist()
    assert kept.of("flat [name] on a red background").tolist() == np.eye(3)[1:].tolist()
    assert kept.of("flat [name] on a blue background").tolist() == np.eye(3)[2:].tolist()
    assert heldout(None, "noto otter", "flat otter").of("flat [name]").tolist() == np.eye(2).tolist()


def paint(folder: Path, name: str, colour: tuple[int, int, int]) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def test_drawn_pictures_are_compared_with_those_of_their_prompt_and_named(
    classifier: Classifier, tmp_path: Path
) -> None:
    kept = heldout(classifier, "noto otter", "flat otter")
    red = paint(tmp_path, "one", (200, 0, 0))
    blue = paint(tmp_path, "other", (0, 0, 200))
    pictures = unit(np.array([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.6, 0.8]]]))
    made = kept.numbers(["flat [name] on a red background", "noto cat"], pictures, [[red, blue], [red, blue]])
    assert made["heldout_similarity"].tolist() == [[0.0, 0.8], [1.0, 0.6]]
    assert made["concept_accuracy"].tolist() == [[0, 0], [1, 1]]
    assert made["style_accuracy"].tolist() == [[0, 0], [1, 1]]
    assert made["background_accuracy"][0].tolist() == [1, 0]
    assert np.isnan(made["background_accuracy"][1]).all()  # nothing was asked for


def test_where_a_style_is_learned_pictures_are_compared_with_all_of_it(classifier: Classifier, tmp_path: Path) -> None:
    kept = heldout(classifier, "flat otter", "flat cat", "flat orange")
    red = paint(tmp_path, "one", (200, 0, 0))
    pictures = unit(np.array([[[1.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]], [[0.0, 0.0, 1.0]]]))
    made = kept.numbers(["[name] otter", "flat cat", "noto cat"], pictures, [[red]] * 3)["style_similarity"]
    assert made[:2].tolist() == [[pytest.approx(1 / 3)], [pytest.approx(1 / np.sqrt(3))]]
    assert np.isnan(made[2]).all()  # asks for another style
    alike = heldout(classifier, "flat otter", "flat cat")
    turned = replace(alike, paths=[red, red], features=unit(np.array([[1.0, 0.0], [1.0, 1.0]])))
    assert turned.ceiling(["[name]"])["style_similarity"] == pytest.approx(1 / np.sqrt(2), rel=1e-5)
    for captions in (["noto otter", "flat otter"], ["flat otter", "flat otter"]):  # a concept is to be learned
        other = replace(heldout(classifier, *captions), paths=[red, red])
        assert "style_similarity" not in other.numbers(["[name]"], np.array([[[1.0, 0.0]]]), [[red]])
        assert "style_similarity" not in other.ceiling(["[name]"])


def test_without_a_classifier_there_is_only_the_similarity(tmp_path: Path) -> None:
    kept = heldout(None, "noto otter", "flat otter")
    made = kept.numbers(["flat [name]"], np.array([[[1.0, 0.0]]]), [[tmp_path / "never opened.png"]])
    assert {name: array.tolist() for name, array in made.items()} == {"heldout_similarity": [[0.5]]}
    assert kept.ceiling(["[name]"]) == {"heldout_similarity": 0.0}


def test_the_ceiling_is_what_the_real_pictures_score(
    classifier: Classifier, tmp_path: Path, clip: ClipFeatures
) -> None:
    paint(tmp_path / "kept", "noto-cat-on-a-red-background", (200, 0, 0))
    paint(tmp_path / "kept", "flat-cat-on-a-red-background", (200, 0, 10))
    paint(tmp_path / "kept", "flat-cat", (0, 0, 200))
    kept = find_heldout(tmp_path / "kept", clip, classifier)
    assert kept
    assert kept.lesson == {"concept": "cat"}
    found = kept.ceiling(["[name]", "flat [name]", "noto [name]"])
    assert found["concept_accuracy"] == 1.0
    assert found["style_accuracy"] == pytest.approx(1 / 3, abs=1e-6)
    assert "background_accuracy" not in found  # no prompt asks for one
    f = kept.features  # sorted by file: flat, flat on red, noto; a single one has nothing to be compared with
    everything, flat = (f[0] @ f[1] + f[0] @ f[2] + f[1] @ f[2]) / 3, f[0] @ f[1]
    assert found["heldout_similarity"] == pytest.approx((everything + flat) / 2, rel=1e-5)


def shown(folder: Path, clip: ClipFeatures, classifier: Classifier) -> list[Labels]:
    """The labels in the captions of a folder's pictures, with no warning of files that are not used."""
    with warnings.catch_warnings(action="error"):
        found = find_heldout(folder, clip, classifier)
    return list(found.shown) if found else []


def test_a_text_beside_a_picture_comes_before_the_words_of_its_file_name(
    clip: ClipFeatures, classifier: Classifier, tmp_path: Path
) -> None:
    path = paint(tmp_path / "kept", "noto-otter_on-a-red-background", (0, 0, 0))
    said = {"style": "noto", "concept": "otter", "background": "on a red background"}
    assert shown(path.parent, clip, classifier) == [said]
    path.with_suffix(".txt").write_text("flat otter\n", encoding="utf-8")
    assert shown(path.parent, clip, classifier) == [{"style": "flat", "concept": "otter"}]


def test_a_set_may_have_no_held_out_pictures_but_an_empty_folder_is_an_error(
    tmp_path: Path, clip: ClipFeatures
) -> None:
    assert find_heldout(tmp_path / "style-heldout", clip, None) is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        find_heldout(tmp_path / "empty", clip, None)


def test_every_format_that_is_read_counts_and_what_is_left_out_is_counted(tmp_path: Path, clip: ClipFeatures) -> None:
    folder = tmp_path / "owl-heldout"
    folder.mkdir()
    for number, suffix in enumerate((".avif", ".gif", ".bmp", ".PNG", ".jpg", ".webp")):
        Image.new("RGB", (40, 40), (9 * number, 0, 0)).save(folder / f"{number}{suffix}")
    (folder / "0.txt").write_text("an owl", encoding="utf-8")
    (folder / "README.md").write_text("from a museum", encoding="utf-8")
    with warnings.catch_warnings(action="error"):
        found = find_heldout(folder, clip, None)
    assert found
    assert [path.name for path in found.paths] == ["0.avif", "1.gif", "2.bmp", "3.PNG", "4.jpg", "5.webp"]
    for name in ("a.tif", "b.tif", "c.heic", "orphan.txt"):
        (folder / name).touch()
    (folder / "more").mkdir()
    counts = r"owl-heldout: 5 files are not used: 2 \.tif, 1 \.heic, 1 more/, 1 \.txt\. Next: save pictures as PNG"
    with pytest.warns(EtudeWarning, match=counts):
        assert find_heldout(folder, clip, None)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("caf\u00e9.txt", b"\xef\xbb\xbfa noto otter\r\n"),
        ("cafe\u0301.txt", b"a noto  otter"),  # as macOS writes it
        ("caf\u00e9.TXT", b"a noto otter"),
        ("caf\u00e9.txt", "a noto otter".encode("utf-16")),
    ],
)
def test_a_caption_is_found_and_read_as_for_training(
    name: str, data: bytes, clip: ClipFeatures, classifier: Classifier, tmp_path: Path
) -> None:
    path = paint(tmp_path / "kept", "caf\u00e9", (0, 0, 0))
    (path.parent / name).write_bytes(data)
    assert shown(path.parent, clip, classifier) == [{"style": "noto", "concept": "otter"}]


@pytest.mark.parametrize("data", ["кот".encode("cp1251"), "a cat".encode("utf-16-le")])
def test_a_caption_that_is_no_text_is_named(
    data: bytes, clip: ClipFeatures, classifier: Classifier, tmp_path: Path
) -> None:
    paint(tmp_path / "kept", "a", (0, 0, 0)).with_suffix(".txt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.txt: is no(t| plain) text"):
        find_heldout(tmp_path / "kept", clip, classifier)


def test_held_out_pictures_may_lie_in_a_folder_of_the_earlier_name_but_not_in_both(tmp_path: Path) -> None:
    evaluate = Evaluate.model_construct(heldout="kept")
    assert evaluate.heldout_folder("owl", tmp_path) == tmp_path / "kept/owl-heldout"  # whether it is there or not
    (tmp_path / "kept/owl-truth").mkdir(parents=True)
    assert evaluate.heldout_folder("owl", tmp_path) == tmp_path / "kept/owl-truth"
    (tmp_path / "kept/owl-heldout").mkdir()
    with pytest.raises(
        InputError, match=r"owl-truth: .* but .*owl-heldout exists too.* Next: move its pictures to .*owl-heldout"
    ):
        evaluate.heldout_folder("owl", tmp_path)
