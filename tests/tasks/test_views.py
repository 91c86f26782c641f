"""The stage that makes and encodes views."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from etude.base.latents import encode_images
from etude.base.loading import load_base
from etude.core.errors import InputError
from etude.core.files import sha256_tree, write_json
from etude.training.inputs import INPUTS, Request
from etude.training.views import load_views
from tasks.encode import grey_of
from tasks.views import _views, views
from tests.pipelines.learning import params_of
from tests.tasks.front import draw
from tests.tasks.learning import make_project, write_yaml

METHOD = "custom_diffusion"
OUT = Path("artifacts/custom_diffusion/views")


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path, tiny_base, METHOD)
    shutil.rmtree(tmp_path / "data/concept/prepared", ignore_errors=True)
    for number in range(2):
        draw(tmp_path / f"data/concept/prepared/{number}.png", number, (96, 64))
    tell_sources(tmp_path, "a.png", "b.png")
    monkeypatch.chdir(tmp_path)
    ask(views=3)
    return tmp_path


def tell_sources(project: Path, *files: str) -> None:
    images = {str(number): {"sources": [file]} for number, file in enumerate(files)}
    write_json(project / "data/concept/prepared/images.json", {"images": images})


def ask(**changes: Any) -> Any:
    params = params_of(METHOD).model_dump(mode="json")
    changed = params | {"augmentation": params["augmentation"] | changes}
    write_yaml(Path("pipelines/custom_diffusion/params.yaml"), changed)
    return params_of(METHOD, augmentation=changed["augmentation"]).augmentation  # type: ignore[attr-defined]


@pytest.mark.usefixtures("project")
def test_each_view_is_encoded_with_its_mask_and_kind_and_none_twice(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask(views=3)
    views(METHOD, "concept")
    found = load_views(OUT, ["concept"])
    assert found.images.names == tuple(f"concept/{p}-00{n}" for p in range(2) for n in range(3))
    base = load_base(tiny_base, parts=("vae",))
    for number, (picture, masks, kind) in enumerate(_views(Path("data/concept/prepared/1.png"), asked)):
        name = f"concept/1-00{number}"
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 64, 96, 3)
        mean = found.images.mean[found.images.names.index(name)]
        torch.testing.assert_close(mean, encode_images(base, pixels)[0][0], rtol=0, atol=1e-5)
        assert torch.equal(found.images.cells[found.images.names.index(name)], masks["mask"])
        assert masks["mask"].shape == mean.shape[1:] == (8, 12)
        assert found.images.attention[found.images.names.index(name)] is None
        assert found.kinds[name] == kind
    assert "6 encoded, 0 from cache" in capsys.readouterr().out
    before = sha256_tree(OUT)
    shutil.rmtree(OUT)
    ask(views=4)
    views(METHOD, "concept")
    assert "2 encoded, 6 from cache" in capsys.readouterr().out
    ask(views=3)
    views(METHOD, "concept")
    assert sha256_tree(OUT) == before


def test_views_count_as_often_as_their_picture(project: Path) -> None:
    ask(views=2)
    views(METHOD, "concept")
    assert not load_views(OUT, ["concept"]).images.repeats
    tell_sources(project, "3_dog/a.png", "b.png")
    views(METHOD, "concept")
    assert list(load_views(OUT, ["concept"]).images.repeats) == [3, 3, 1, 1]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("count", [0, 3])
def test_the_mask_of_a_picture_is_placed_as_its_view_is(count: int) -> None:
    asked = ask(views=count)
    grey = Image.new("L", (96, 64), 0)
    grey.paste(255, (0, 0, 96, 32))
    Path("data/concept/prepared/attention").mkdir()
    grey.save("data/concept/prepared/attention/1.png")
    grey.convert("RGB").save("data/concept/prepared/1.png")  # so that each view shows what its mask has to be
    views(METHOD, "concept")
    images = load_views(OUT, ["concept"]).images
    for number, (picture, _, _) in enumerate(_views(Path("data/concept/prepared/1.png"), asked)):
        mask = images.attention[images.names.index(f"concept/1-00{number}")]
        assert mask is not None
        assert (mask.shape, picture.size) == ((8, 12), (96, 64))
        assert torch.equal(mask, grey_of(picture, 8, 12))
        if not count:
            assert mask[:3].min() > 0.99
            assert mask[-3:].max() < 0.01
        assert mask.max() > 0.5 > mask.min()
    assert images.attention[images.names.index("concept/0-000")] is None


@pytest.mark.usefixtures("project")
def test_no_views_is_the_picture_as_it_is_and_all_of_it_counts() -> None:
    asked = ask(views=0)
    views(METHOD, "concept")
    found = load_views(OUT, ["concept"])
    assert found.images.names == ("concept/0-000", "concept/1-000")
    assert all(bool(cells.all()) for cells in found.images.cells)
    assert set(found.kinds.values()) == {"whole"}
    ((picture, _, _),) = _views(Path("data/concept/prepared/0.png"), asked)
    with Image.open("data/concept/prepared/0.png") as file:
        assert picture.tobytes() == file.convert("RGB").tobytes()


@pytest.mark.usefixtures("project")
def test_a_build_gets_the_views_of_all_its_concepts_and_is_refused_where_masks_should_count_and_none_is_there() -> None:
    views(METHOD, "concept")
    load = INPUTS["views"].load
    assert len(load(Request(METHOD, params_of(METHOD), {})).images.names) == 6
    with pytest.raises(InputError, match=r"^data/concept: no picture has a mask, and `unmasked_weight` is 0\.1\."):
        load(Request(METHOD, params_of(METHOD, unmasked_weight=0.1), {}))
