"""Draw the icons: SVG → RGBA pictures with a margin, so that the background is visible on all sides."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from etude.core.files import read_json, replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.tensors import write_tensors
from miniature.world import FOLDER, OUT, read_world
from tasks.shell import run


class Render(Schema):
    """Sizes in pixels."""

    size: int
    margin: int


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    render: Render


def render() -> None:
    """Write ``out/render/pictures.safetensors`` (rgba, uint8 [N, 4, H, W]) and ``index.json`` (style, concept)."""
    sizes = pick(FOLDER / "params.yaml", StageParams).render
    world = read_world()
    pictures, index = [], []
    for style in (*world.styles, *world.held_out_styles):
        icons = read_json(OUT / "source" / f"{world.package(style)}.json")
        for concept in sorted(icons):
            pictures.append(to_tensor(draw(icons[concept], sizes.size, sizes.margin)))
            index.append({"style": style, "concept": concept})
    with replace_folder(OUT / "render") as folder:
        write_tensors(folder / "pictures.safetensors", {"rgba": torch.stack(pictures)})
        write_json(folder / "index.json", index)


def draw(icon: dict[str, Any], size: int, margin: int) -> Image.Image:
    """One icon in the middle of a transparent square of ``size`` pixels, ``margin`` pixels from its edges."""
    import resvg_py

    left, top, width, height = icon["box"]
    inner = size - 2 * margin
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{inner}" height="{inner}">{icon["body"]}</svg>'
    )
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=inner, height=inner))))
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(drawn.convert("RGBA"), ((size - drawn.width) // 2, (size - drawn.height) // 2))
    return canvas


def to_tensor(picture: Image.Image) -> Tensor:
    """RGBA picture → uint8 [4, H, W]."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    run(render)
