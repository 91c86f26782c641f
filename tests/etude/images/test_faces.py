"""The detector of ``crop: faces``. Where OpenCV is not installed, only its refusal is tested."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw

from etude.core.errors import InputError
from etude.images import faces
from etude.images.crop import crop_box
from etude.images.faces import SIDE, find_faces, refuse_missing
from etude.images.focus import focal_point
from tests.etude.images.portraits import Face, Portrait, cuts, parts, share


@pytest.fixture
def opencv() -> None:
    try:
        refuse_missing("faces")
    except InputError as error:
        pytest.skip(str(error))


def test_only_the_crop_by_faces_needs_the_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "find_spec", lambda _: None)
    for crop in ("center", "focus", "pad"):
        refuse_missing(crop)
    with pytest.raises(
        InputError, match=r"params.yaml: `crop: faces` needs opencv.*Next: run `make setup EXTRAS=faces`"
    ):
        refuse_missing("faces")


def test_an_opencv_without_cascades_is_refused_as_one_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2" / "data").mkdir(parents=True)
    (tmp_path / "cv2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="below version 5"):
        refuse_missing("faces")


class Detectors:
    """In the place of OpenCV: what each cascade finds in a picture, and in its mirror image."""

    __version__ = "4.0"

    def __init__(self, **found: list[list[tuple[int, int, int, int]]]) -> None:
        self.found, self.threads = found, 0

    def setNumThreads(self, number: int) -> None:
        self.threads = number

    def CascadeClassifier(self, path: str) -> SimpleNamespace:
        turns = iter(self.found["front" if path.endswith(faces.FRONTAL) else "side"])
        return SimpleNamespace(detectMultiScale=lambda *_, **__: next(turns, []))


@pytest.mark.parametrize(
    ("found", "boxes"),
    [
        ({"front": [[(50, 10, 20, 30), (0, 10, 20, 30)]], "side": []}, [(0, 20, 40, 80), (100, 20, 140, 80)]),
        ({"front": [[]], "side": [[], [(50, 10, 20, 30)]]}, [(100, 20, 140, 80)]),
        ({"front": [[]], "side": [[(0, 10, 20, 30)], []]}, [(2 * (SIDE - 20), 20, 2 * SIDE, 80)]),
        ({"front": [[]], "side": [[], []]}, []),
    ],
)
def test_what_is_found_in_a_small_or_a_mirrored_copy_is_told_in_the_pixels_of_the_picture(
    found: dict[str, Any], boxes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    detectors = Detectors(**found)
    monkeypatch.setitem(sys.modules, "cv2", detectors)
    monkeypatch.setattr(faces, "_cascades", Path)
    faces._detector.cache_clear()
    assert find_faces(Image.new("RGB", (2 * SIDE, SIDE))) == boxes
    assert detectors.threads == 1  # with several, boxes vary
    faces._detector.cache_clear()


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(("portrait", "part"), [case for case in cuts() if len(case.values[0].faces) == 1])
def test_a_portrait_of_one_person_keeps_as_much_of_the_face_as_in_the_middle(
    portrait: Portrait, part: Face | None
) -> None:
    image, seen = parts(portrait, part)
    found = find_faces(image)
    assert found == find_faces(image)
    kept = share(crop_box(image.size, (64, 64), focal_point(image, (64, 64), found)), seen)
    assert kept >= share(crop_box(image.size, (64, 64)), seen)


@pytest.mark.usefixtures("opencv")
def test_the_version_of_the_detector_is_known() -> None:
    assert re.match(r"4\.\d+", faces.version())


@pytest.mark.usefixtures("opencv")
def test_a_picture_without_a_face_has_none() -> None:
    image = Image.new("RGB", (300, 200), (90, 120, 60))
    ImageDraw.Draw(image).rectangle((40, 40, 200, 150), fill=(200, 30, 30))
    assert find_faces(image) == []
