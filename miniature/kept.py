"""The icons in use, kept in the repository: two megabytes of SVG, so that measuring needs neither npm nor a network.

The stage *source* fetches and checks them; `make miniature-publish` copies its out here and publishes the model.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from etude.core.errors import InputError
from etude.core.files import atomic_path, read_json, write_json
from miniature.render import Render, draw, to_tensor
from miniature.world import FOLDER, OUT, Pictures, World

ICONS = FOLDER / "icons"
Track = Callable[[Sequence[tuple[str, str]]], Iterable[tuple[str, str]]]


def keep(source: Path = OUT / "source", folder: Path = ICONS) -> None:
    """Write ``icons/<package>.json.xz`` and ``sources.json`` from the out of the stage *source*, and their card."""
    records = read_json(source / "sources.json")
    for name in records:
        body, kept = (source / f"{name}.json").read_bytes(), folder / f"{name}.json.xz"
        if kept.exists() and lzma.decompress(kept.read_bytes()) == body:
            continue  # another xz packs the same data into other bytes, and git would store both
        with atomic_path(kept) as path:
            path.write_bytes(lzma.compress(body, preset=9))
    write_json(folder / "sources.json", records)
    rows = sorted(map(source_row, records.values()))
    with atomic_path(folder / "README.md") as path:
        path.write_text(CARD.format(rows="\n".join(rows)), encoding="utf-8")


def source_row(record: dict[str, str]) -> str:
    """A row of the table of sources."""
    origin = f"[{record['title']}]({record['author_url']}) {record['version']}"
    licence = f"[{record['licence']}]({record['licence_url']})"
    return f"| {record['style']} | {origin} | {record['author']} | {licence} |"


def read_icons(package: str, folder: Path = ICONS) -> dict[str, dict[str, Any]]:
    """The icons of a package by concept; raises InputError if the file is missing or damaged."""
    path = folder / f"{package}.json.xz"
    try:
        icons: dict[str, dict[str, Any]] = json.loads(lzma.decompress(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(path, "is missing", "restore it with git, or `make miniature-publish`") from None
    except (lzma.LZMAError, json.JSONDecodeError) as error:
        raise InputError(path, f"is damaged ({error})", "restore it with git") from error
    return icons


def draw_pictures(world: World, sizes: Render, track: Track = iter, folder: Path = ICONS) -> Pictures:
    """All kept icons that the world names, drawn as the stage *render* draws them."""
    icons = {s: read_icons(world.package(s), folder) for s in (*world.styles, *world.held_out_styles)}
    index = [
        (style, concept) for style, known in icons.items() for concept in sorted(known) if concept in world.icons(style)
    ]
    rgba = [to_tensor(draw(icons[style][concept], sizes.size, sizes.margin)) for style, concept in track(index)]
    return Pictures(torch.stack(rgba), [style for style, _ in index], [concept for _, concept in index])


CARD = """# The icons of the miniature

What the miniature is made from and measured against: the SVG bodies of the icons in use, unchanged, by concept, packed
with xz. `make miniature-measure` draws them, so it needs neither npm nor a network.

| style word | set | author | licence |
|---|---|---|---|
{rows}

From the npm packages `@iconify-json/*`; versions and checksums are in [sources.json](sources.json). The texts of the
licences: [MIT](LICENSE-MIT.txt), [Apache-2.0](LICENSE-Apache-2.0.txt), [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/legalcode).
"""
