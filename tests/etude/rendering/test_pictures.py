from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etude.base.settings import Sampling, Text
from etude.core.artifact import load, save
from etude.core.errors import FormatError, InputError
from etude.diffusion.sample import generate
from etude.rendering.candidates import UNTOUCHED, candidates
from etude.rendering.pictures import Request, ask, draw
from etude.rendering.pixels import open_picture, pixel_digest
from etude.rendering.renderer import Renderer
from tests.finished import SAMPLING, SEEDS, enter, project

SAMPLED = Sampling.model_validate(SAMPLING)


@pytest.fixture
def renderer(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Renderer:
    project(tmp_path, tiny_base)
    enter(monkeypatch, tmp_path)
    return open_renderer(tiny_base)


def open_renderer(base: Path, method: str = "lora") -> Renderer:
    return Renderer(base, method, device="cpu", precision="fp32", threads=1)


def asked(prompt: str = "a red [name]", step: int = 0, strength: float = 1.0) -> Request:
    candidate = next(s for s in candidates(Path("artifacts/lora/build")) if s.step == step)
    return ask(candidate, prompt, "sks", SEEDS, SAMPLED, {"strength": strength})


def test_a_kept_picture_is_what_the_model_draws(renderer: Renderer) -> None:
    request = asked()
    drawn = generate(renderer.base, ["a red sks"] * 2, seeds=SEEDS, **SAMPLED.model_dump()).numpy()
    places = draw(renderer, [request]).paths[request]
    for place, pixels in zip(places, drawn, strict=True):
        with Image.open(place) as picture:
            assert (np.asarray(picture) == pixels).all()


def test_nothing_is_drawn_twice_and_the_base_is_not_even_opened(renderer: Renderer, tiny_base: Path) -> None:
    requests = [asked(step=0), asked(step=10)]
    assert draw(renderer, [*requests, requests[0]]).new == 4
    again = open_renderer(tiny_base)
    assert draw(again, requests).new == 0
    assert "base" not in vars(again)


def test_a_picture_does_not_depend_on_what_else_is_drawn(renderer: Renderer, tmp_path: Path) -> None:
    alone = draw(renderer, [asked()]).of(asked(), 1).read_bytes()
    (tmp_path / ".cache").rename(tmp_path / "old")
    together = draw(renderer, [asked("a blue [name]", 20), asked(), asked("a blue [name]")])
    assert together.of(asked(), 1).read_bytes() == alone


def test_one_lost_picture_draws_its_group_again(renderer: Renderer) -> None:
    drawn = draw(renderer, [asked(), asked(step=10)])
    lost = drawn.of(asked(), 1)
    before = lost.read_bytes()
    lost.unlink()
    assert draw(renderer, [asked(), asked(step=10)]).new == 2
    assert lost.read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a blue sks"},
        {"seeds": (0, 1, 2)},
        {"sampling": SAMPLED.model_copy(update={"steps": 3})},
        {"sampling": SAMPLED.model_copy(update={"negative": "blue"})},
        {"settings": (("strength", 0.5),)},
        {"size": (64, 72)},
    ],
)
def test_whatever_changes_a_picture_changes_its_place(renderer: Renderer, other: dict[str, object]) -> None:
    request = asked(step=10)
    changed = replace(request, **other)  # type: ignore[arg-type]
    paths = draw(renderer, [request, changed]).paths
    assert not set(paths[request]) & set(paths[changed])


def test_the_key_knows_weights_device_and_precision_but_the_bases_no_method(
    renderer: Renderer, tiny_base: Path
) -> None:
    first, last = candidates(Path("artifacts/lora/build"))[1:]
    one = renderer.key(first, {})
    assert one != renderer.key(last, {})
    assert one != Renderer(tiny_base, "lora", device="cpu", precision="bf16", threads=1).key(first, {})
    assert one != Renderer(tiny_base, "lora", device="cpu", precision="fp32", threads=2).key(first, {})
    long = Text(chunks=2, rule="kohya", emphasis="none")
    assert one != Renderer(tiny_base, "lora", device="cpu", precision="fp32", threads=1, reading=long).key(first, {})
    assert one != open_renderer(tiny_base, "textual_inversion").key(first, {})
    assert renderer.key(UNTOUCHED, {}) == open_renderer(tiny_base, "textual_inversion").key(
        UNTOUCHED, {"strength": 0.5}
    )


def test_an_artifact_is_hashed_once_for_all_prompts(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("etude.rendering.renderer.sha256_file", lambda path: read.append(path.name) or path.name)
    candidate = asked(step=10).candidate
    assert renderer.key(candidate, {}, "a") != renderer.key(candidate, {}, "b")
    assert read == ["000010.safetensors"]


def test_equal_questions_are_asked_equally() -> None:
    worded = SAMPLED.model_copy(update={"negative": "no [name]"})
    one = ask(UNTOUCHED, " a  [name] ", "sks", [1, 0], worded, {"strength": 0.5})
    assert one == ask(UNTOUCHED, "a sks", "sks", [0, 1], worded, {})
    assert one.sampling.negative == "no sks"


def test_an_artifact_of_another_method_is_refused(renderer: Renderer) -> None:
    path = Path("artifacts/lora/build/checkpoints/000010.safetensors")
    save(replace(load(path), method="hypernetwork"), path)
    with pytest.raises(FormatError, match="made by hypernetwork"):
        draw(renderer, [asked(step=10)])


def test_pixels_are_known_by_size_and_colour_and_not_by_file() -> None:
    one = Image.new("RGB", (4, 2), "red")
    assert pixel_digest(one) == pixel_digest(one.convert("RGBA"))
    assert pixel_digest(one) != pixel_digest(Image.new("RGB", (2, 4), "red"))
    assert pixel_digest(one) != pixel_digest(Image.new("RGB", (4, 2), "blue"))


def test_a_picture_that_a_camera_laid_on_its_side_is_opened_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=turned)
    assert open_picture(tmp_path / "a.jpg").size == (20, 40)


def test_a_picture_of_anybody_has_the_colours_that_it_shows(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 4, 8))
    clear.save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").getpixel((6, 6)) == (255, 255, 255)
    assert open_picture(tmp_path / "clear.png").getpixel((1, 1)) == (10, 20, 30)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").getpixel((1, 1)) == (156, 156, 156)


def test_a_damaged_picture_is_named_and_not_half_read(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"a.png: cannot be read as a picture \(the check sum"):
        open_picture(tmp_path / "a.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b.png: shows nothing"):
        open_picture(tmp_path / "b.png")
