"""The prompt that A1111 and related programs write into the pictures that they draw, as a caption."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from etude.core.pictures import DAMAGE

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})  # the formats in which these programs save
KEY = "parameters"  # of the text in a PNG
EXIF, COMMENT = 0x8769, 0x9286  # the EXIF directory and UserComment in it, for JPEG and WebP
CODED = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii"}
SMALL = 1 << 20  # bytes of a file that is searched for these before Pillow opens it, which takes four times as long
END = re.compile(r"^(Negative prompt|Steps): ", re.MULTILINE)
STEPS = re.compile(r"^Steps: \d", re.MULTILINE)  # every such text has steps; a text of another program may have none
NETWORK = re.compile(r"<[a-z]+:[^<>]*>")  # <lora:owl:0.8>
CHANGES = re.compile(r"(?<!\\)\[[^\[\]]*[:|][^\[\]]*\]")  # [a:b:0.5], [a|b]: it changes while the picture is drawn
WEIGHT = re.compile(r"\(([^():]*):\s*[-+.\d]+\s*\)")  # (word:1.2)
BRACKET = re.compile(r"(?<!\\)[()\[\]]")
BREAK = re.compile(r"\s*\bBREAK\b\s*")
COMMAS = re.compile(r"\s*,(\s*,)*\s*")


def prompt_in(path: Path) -> str | None:
    """The prompt in a picture file; None if it has none, or one that changes from step to step."""
    if path.suffix.lower() not in SUFFIXES or _has_none(path):
        return None
    text = _parameters(path)
    if text is None or not STEPS.search(text):
        return None
    return as_caption(text[: END.search(text).start()])  # type: ignore[union-attr] # STEPS found one


def as_caption(prompt: str) -> str | None:
    """A prompt without its program's syntax: networks, weights, brackets, BREAK. None if it changes while drawing."""
    prompt = NETWORK.sub("", prompt)
    if CHANGES.search(prompt):
        return None
    prompt = BRACKET.sub("", WEIGHT.sub(r"\1", BREAK.sub(", ", prompt)))
    prompt = re.sub(r"\\([()\[\]])", r"\1", prompt)
    return " ".join(COMMAS.sub(", ", prompt).split()).strip(", ") or None


def _has_none(path: Path) -> bool:
    """Whether a file certainly has no prompt: it is small, and has none of the marks that stand before prompts.

    This is never said of a file with EXIF data in several parts: a mark could be split between two of them.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(SMALL)
    except OSError:  # *prepare* reports it
        return True
    marked = any(mark in data for mark in (KEY.encode(), *CODED))
    return len(data) < SMALL and data.count(b"Exif\0\0") < 2 and not marked


def _parameters(path: Path) -> str | None:
    """The text that describes how a picture was drawn. None for a damaged file, which *prepare* reports."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            text = image.info.get(KEY)
            if text is None and image.format != "PNG" and "exif" in image.info:
                text = _decoded(image.getexif().get_ifd(EXIF).get(COMMENT))
    except DAMAGE:
        return None
    return text if isinstance(text, str) else None


def _decoded(comment: object) -> str | None:
    if not isinstance(comment, bytes) or (encoding := CODED.get(comment[:8])) is None:
        return None
    return comment[8:].decode(encoding, errors="ignore")
