"""What Prefect's UI shows of a run besides states and logs: pictures, numbers, the plan and how it ended."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.plan import Stage
from flows.server import PICTURES

MOST = 4  # pictures; a folder with more pictures holds data, not results
THUMBNAIL_SIDE = 800  # px
THUMBNAIL_BYTES = 200_000  # kept with every run


def publish(root: Path, stage: Stage, site: str | None) -> None:
    """Show what a stage made: its pictures as thumbnails, `metrics.json` as a table, `index.html` as a link.

    `site` is the address of the repository's own server; empty with any other server.
    """
    for path, file in pictures(root, stage).items():
        address = _address(thumbnail(file), site)
        create_image_artifact(image_url=address, key=_key(stage.shown, file.stem), description=plain(path))
    if values := numbers(root, stage):
        table = [{"metric": name, "value": value} for name, value in values.items()]
        about = plain(f"metrics of {stage.label}")
        create_table_artifact(table=table, key=_key(stage.shown, "metrics"), description=about)
    for out in stage.outs:
        if (page := root / out / "index.html").is_file() and not stage.title:
            path = page.relative_to(root).as_posix()
            link = f"{site}/{quote(path)}" if site else page.as_uri()
            create_link_artifact(link=link, link_text=plain(path), key=_key(stage.shown, "page"), description="A page")


def publish_plan(todo: Mapping[Stage, Sequence[str]], total: int) -> None:
    """Show what a flow is about to do, and why."""
    lines = [f"{len(todo)} of {total} stages to run, {total - len(todo)} up to date", ""]
    if todo:
        lines += ["| stage | why |", "|---|---|"]
        lines += [f"| {plain(stage.label)} | {plain('; '.join(why))} |" for stage, why in todo.items()]
    create_markdown_artifact(markdown="\n".join(lines), key="plan", description="What was to be done, and why")


def plain(text: str) -> str:
    """Escape a text, on one line, so that Markdown and HTML show it as it is: names and prompts are no mark-up."""
    marks = r"[^\w\s.,;:/=→-]|_|:(?=//)|(?<=www)\."  # the last two would become links
    return re.sub(marks, lambda found: f"&#{ord(found[0])};", " ".join(text.split()), flags=re.IGNORECASE)


def publish_outcome(rows: Sequence[tuple[str, str, float | None]]) -> None:
    """Show how every stage ended: label, state, seconds."""
    table = [{"stage": label, "state": state, "seconds": round(took, 1) if took else ""} for label, state, took in rows]
    create_table_artifact(table=table, key="outcome", description="How every stage ended")


def _address(picture: bytes, site: str | None) -> str:
    """The address of a picture for a page: a file beside the repository server's history; else the picture itself."""
    if not site:
        return data_uri(picture)
    name = f"{hashlib.sha256(picture).hexdigest()[:16]}.webp"
    folder = Path(os.environ["PREFECT_HOME"]) / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(picture)
    return f"/{PICTURES}/{name}"  # without host and port: that server may have another port later


def data_uri(picture: bytes) -> str:
    """A thumbnail as an address that holds the picture itself."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def thumbnail(file: Path) -> bytes:
    """A picture as WebP of at most THUMBNAIL_BYTES. Raises OSError when it is no picture."""
    from etude.core.pictures import open_whole

    small = open_whole(file, "PNG", "JPEG", "WEBP").convert("RGB")
    side = THUMBNAIL_SIDE
    while True:
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=80)
        if buffer.tell() <= THUMBNAIL_BYTES or side < 100:
            return buffer.getvalue()
        side = side * 3 // 4


def pictures(root: Path, stage: Stage) -> dict[str, Path]:
    """The pictures that a stage made as a result, by their path from the root; a folder full of data gives none."""
    files: list[Path] = []
    for out in (root / path for path in stage.outs):
        found = [out] if out.suffix == ".png" else sorted(out.glob("*.png"))
        files += found if len(found) <= MOST else []
    return {file.relative_to(root).as_posix(): file for file in files if file.is_file()}


def numbers(root: Path, stage: Stage) -> dict[str, Any]:
    """The numbers of the `metrics.json` in or among a stage's outputs, with nested names joined by dots."""
    outs = (root / path for path in stage.outs)
    files = (out if out.name == "metrics.json" else out / "metrics.json" for out in outs)
    return dict(pair for file in files if file.is_file() for pair in _flat(json.loads(file.read_text())))


def _flat(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, data


def _key(*names: str) -> str:
    words = re.findall("[a-z0-9]+", " ".join(names).lower())
    return "-".join(word for word, before in zip(words, ["", *words], strict=False) if word != before)
