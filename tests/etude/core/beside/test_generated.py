from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from etude.core.beside.generated import COMMENT, EXIF, SMALL, as_caption, prompt_in

END = "\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


def draw(path: Path, parameters: str) -> Path:
    """A picture with its parameters as A1111 writes them: in a PNG's text, or in EXIF's UserComment."""
    image = Image.new("RGB", (8, 8))
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("parameters", parameters)
        image.save(path, pnginfo=info)
    else:
        exif = Image.Exif()
        exif.get_ifd(EXIF)[COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
        image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_prompt_of_a_drawn_picture_is_its_caption_without_what_only_its_program_reads(
    tmp_path: Path, suffix: str
) -> None:
    prompt = "a (red:1.3) fox ((in the snow)), [blurry], ❄ <lora:fox:0.8>, BREAK best quality"
    assert prompt_in(draw(tmp_path / f"a{suffix}", prompt + END)) == "a red fox in the snow, blurry, ❄, best quality"


def test_a_prompt_over_several_lines_without_a_negative_one_is_read(tmp_path: Path) -> None:
    assert prompt_in(draw(tmp_path / "a.png", "a fox,\nin the snow\nSteps: 20, Seed: 1")) == "a fox, in the snow"


@pytest.mark.parametrize(
    "text", ["a fox", "made with love", "", "Steps: twenty", f"[fox:wolf:0.5]{END}", f"<lora:a:1>{END}"]
)
def test_what_is_no_prompt_or_one_that_changes_while_it_is_drawn_is_no_caption(tmp_path: Path, text: str) -> None:
    assert prompt_in(draw(tmp_path / "a.png", text)) is None


def test_a_prompt_is_found_in_a_large_file_and_in_exif_data_whose_parts_divide_its_first_word(tmp_path: Path) -> None:
    whole = draw(tmp_path / "a.jpg", "a fox" + END).read_bytes()
    start = whole.index(b"\xff\xe1")
    exif = whole[start + 10 : start + 2 + int.from_bytes(whole[start + 2 : start + 4])]
    place = exif.index(b"UNICODE") + 3
    parts = [b"Exif\0\0" + part for part in (exif[:place], exif[place:])]
    divided = b"".join(b"\xff\xe1" + (2 + len(part)).to_bytes(2) + part for part in parts)
    (tmp_path / "b.jpg").write_bytes(whole[:start] + divided + whole[start + 10 + len(exif) :])
    (tmp_path / "c.jpg").write_bytes(whole + bytes(SMALL))
    assert [prompt_in(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")] == ["a fox"] * 3


def test_brackets_that_are_meant_stay() -> None:
    assert as_caption(r"saber \(fate\), (blue:1.1) eyes") == "saber (fate), blue eyes"
    assert as_caption("a [cat|dog]") is None


def test_a_damaged_picture_and_one_of_another_format_have_no_prompt(tmp_path: Path) -> None:
    whole = draw(tmp_path / "a.png", "a fox" + END).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    (tmp_path / "none.png").write_bytes(b"no picture")
    (tmp_path / "a.gif").write_bytes(whole)
    assert [prompt_in(tmp_path / name) for name in ("cut.png", "none.png", "a.gif")] == [None, None, None]
