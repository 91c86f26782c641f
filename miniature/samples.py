"""Draw the sample sets of ``data/samples`` from what the miniature has never seen, and the held-out pictures.

A command, not a stage: ``python3 -m miniature.samples``. Its pictures are plain files in git.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from etude.core.files import read_json, replace_folder
from etude.core.params import Schema, pick
from miniature.render import draw
from miniature.world import FOLDER, OUT, World, background, read_world
from tasks.shell import run

SAMPLES = Path("data/samples")


class Picture(Schema):
    """One picture of a set: what it shows, and its file."""

    style: str
    concept: str
    colour: str
    size: list[int]
    suffix: str
    caption: bool

    def words(self, styled: bool = True) -> str:
        """The caption, with the style word or without; a white background is not named."""
        end = "" if self.colour == "white" else f" {background(self.colour)}"
        return f"{self.style} {self.concept}{end}" if styled else f"{self.concept}{end}"

    def stem(self) -> str:
        """The file's name without its suffix: the words of the caption, so that it can replace a caption file."""
        return self.words().replace(" ", "-")


class StyleSet(Schema):
    """How the pictures of the style set are drawn."""

    style: str
    count: int
    size: int
    coloured_every: int
    jpeg_every: int


class ConceptSet(Schema):
    """The pictures of the concept set, and the styles and colours of its held-out pictures."""

    concept: str
    pictures: list[Picture]
    heldout_styles: list[str]
    heldout_colours: list[str]
    heldout_size: int


class Samples(Schema):
    """The ``samples`` block of params.yaml."""

    concept: ConceptSet
    style: StyleSet


class StageParams(Schema):
    """The part of params.yaml that this command reads."""

    samples: Samples


def samples() -> None:
    """Write ``data/samples/{concept,style}`` and the held-out pictures beside them."""
    settings = pick(FOLDER / "params.yaml", StageParams).samples
    world = read_world()
    shown, hidden = concept_pictures(settings.concept)
    write_set("concept", shown, world, CONCEPT.format(concept=settings.concept.concept))
    write_set("concept-heldout", hidden, world, CONCEPT_HELDOUT.format(concept=settings.concept.concept))
    shown, hidden = style_pictures(settings.style, world)
    write_set("style", shown, world, STYLE.format(style=settings.style.style), styled=False)
    write_set("style-heldout", hidden, world, STYLE_HELDOUT.format(style=settings.style.style))


def concept_pictures(settings: ConceptSet) -> tuple[list[Picture], list[Picture]]:
    """The set's pictures, and every held-out style on every held-out colour, except what the set shows."""
    shown = {(picture.style, picture.colour) for picture in settings.pictures}
    pairs = [(s, c) for s in settings.heldout_styles for c in settings.heldout_colours if (s, c) not in shown]
    size = [settings.heldout_size] * 2
    hidden = [
        Picture(style=s, concept=settings.concept, colour=c, size=size, suffix=".png", caption=True) for s, c in pairs
    ]
    return settings.pictures, hidden


def style_pictures(settings: StyleSet, world: World) -> tuple[list[Picture], list[Picture]]:
    """All concepts of the style, spread evenly over the set and its held-out pictures."""
    concepts = sorted(set(world.icons(settings.style)) & set(world.concepts))
    colours = [colour for colour in world.colours if colour != "white"]
    pictures = []
    for i, concept in enumerate(concepts):
        colour = colours[i // settings.coloured_every % len(colours)] if i % settings.coloured_every == 0 else "white"
        size = [settings.size + 32 * (i % 3 == 1), settings.size + 32 * (i % 3 == 2)]
        suffix = ".jpg" if i % settings.jpeg_every == 1 else ".png"
        kind = {"style": settings.style, "concept": concept, "colour": colour}
        pictures.append(Picture(**kind, size=size, suffix=suffix, caption=True))
    chosen = {i * len(pictures) // settings.count for i in range(settings.count)}
    shown = [picture for i, picture in enumerate(pictures) if i in chosen]
    return shown, [picture for i, picture in enumerate(pictures) if i not in chosen]


def write_set(name: str, pictures: list[Picture], world: World, card: str, styled: bool = True) -> None:
    """Write one folder of pictures, captions (with the style word or without) and its card."""
    with replace_folder(SAMPLES / name) as folder:
        for picture in pictures:
            image = paint(picture, world)
            options: dict[str, Any] = {"quality": 92} if picture.suffix == ".jpg" else {"optimize": True}
            image.save(folder / (picture.stem() + picture.suffix), **options)
            if picture.caption:
                (folder / (picture.stem() + ".txt")).write_text(picture.words(styled) + "\n", encoding="utf-8")
        styles = sorted({picture.style for picture in pictures})
        (folder / "README.md").write_text(card + sources(styles, world), encoding="utf-8")


def paint(picture: Picture, world: World) -> Image.Image:
    """The icon in the middle of its background, in the same proportion to the short side as in training."""
    icon = read_json(OUT / "source" / f"{world.package(picture.style)}.json")[picture.concept]
    width, height = picture.size
    short = min(width, height)
    drawn = draw(icon, short, short // 16)
    canvas = Image.new("RGB", (width, height), tuple(world.colours[picture.colour]))
    canvas.paste(drawn, ((width - short) // 2, (height - short) // 2), drawn)
    buffer = io.BytesIO()  # encoded again, to drop the metadata of the drawing
    canvas.save(buffer, format="PPM")
    return Image.open(buffer)


def sources(styles: list[str], world: World) -> str:
    """The table of origins and licences of ``styles``."""
    records = read_json(OUT / "source" / "sources.json")
    rows = ["", "| style word | set | author | licence |", "|---|---|---|---|"]
    for style in styles:
        record = records[world.package(style)]
        licence = f"[{record['licence']}]({record['licence_url']})"
        rows.append(f"| {style} | [{record['title']}]({record['author_url']}) | {record['author']} | {licence} |")
    rows.append(
        "\nDrawn from the SVG files of the npm packages `@iconify-json/*` on plain backgrounds; otherwise unchanged."
    )
    return "\n".join(rows) + "\n"


CONCEPT = """# Sample set: a concept

Five pictures of one thing, an {concept}, that the miniature has never seen, in several drawing styles and on several
backgrounds. They are larger than its 128 pixels and of mixed aspect ratios, so that preparation has work to do.
Held-out pictures for measuring lie in `../concept-heldout`.
"""
CONCEPT_HELDOUT = """# Held-out pictures of the concept set

The same {concept} in styles and on backgrounds that `../concept` does not show. For measuring only: never train on
them.
"""
STYLE = """# Sample set: a style

Pictures in one drawing style, called {style} here, that the miniature has never seen. Their captions name things that
it knows and say nothing of the style, so that only the style is new. The other pictures of the style lie in
`../style-heldout`.
"""
STYLE_HELDOUT = """# Held-out pictures of the style set

Further pictures in the style {style}, of things that `../style` does not show. For measuring only: never train on
them.
"""


if __name__ == "__main__":
    run(samples)
