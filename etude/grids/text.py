"""Text on a picture: Pillow's own scalable font, wrapped at a width. System fonts would differ between machines."""

from __future__ import annotations

from functools import cache

from PIL import ImageDraw, ImageFont

LEADING = 1.3  # height of a line, in font sizes


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Aileron, the font that Pillow includes, at ``size`` pixels."""
    default_font = ImageFont.load_default(size)
    assert isinstance(default_font, ImageFont.FreeTypeFont)  # Pillow built without FreeType has no scalable font
    return default_font


def wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of ``text``, at most ``width`` pixels wide: broken between words, or inside a word that is too long."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font(size).getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += _pieces(word, size, width)
    return [line for line in lines if line] or [""]


def _pieces(word: str, size: int, width: int) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font(size).getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def height(lines: list[str], size: int) -> int:
    """Height of ``lines`` in pixels."""
    return round(len(lines) * size * LEADING)


def write(draw: ImageDraw.ImageDraw, lines: list[str], left: int, top: int, size: int, colour: str) -> None:
    """Write lines downwards from ``top``, each starting at ``left``."""
    for number, line in enumerate(lines):
        middle = top + (number + 0.5) * size * LEADING
        draw.text((left, round(middle)), line, font=font(size), fill=colour, anchor="lm")


def write_centred(draw: ImageDraw.ImageDraw, lines: list[str], centre: int, top: int, size: int, colour: str) -> None:
    """Write lines downwards from ``top``, each centred at ``centre``."""
    for number, line in enumerate(lines):
        middle = top + (number + 0.5) * size * LEADING
        draw.text((centre, round(middle)), line, font=font(size), fill=colour, anchor="mm")
