"""Fetch the open emoji sets at fixed versions, check every byte, record their licences, keep the icons in use.

The npm client fetches, so npm's mirror settings apply. Only permissive licences are accepted.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from etude.core.errors import InputError
from etude.core.files import replace_folder, sha256_file, write_json
from etude.core.params import Schema, pick
from miniature.world import FOLDER, OUT, World, read_world
from tasks.shell import run

PERMISSIVE = ("MIT", "Apache-2.0", "CC-BY-4.0")  # a share-alike licence would also bind users of the weights


class Package(Schema):
    """One npm package below ``@iconify-json``."""

    version: str
    sha256: str


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    packages: dict[str, Package]


def source() -> None:
    """Write ``out/source/<package>.json`` (the icons in use) and ``sources.json`` (origin and licence of each)."""
    packages = pick(FOLDER / "params.yaml", StageParams).packages
    world = read_world()
    with replace_folder(OUT / "source") as folder, tempfile.TemporaryDirectory() as temporary:
        records = {}
        words: Counter[str] = Counter()
        for style in (*world.styles, *world.held_out_styles):
            name = world.package(style)
            archive = fetch(name, packages[name], Path(temporary))
            info, icons = read_member(archive, "info.json"), read_member(archive, "icons.json")
            records[name] = record(name, packages[name], info, style)
            words.update(word for icon in icons["icons"] for word in icon.split("-"))
            write_json(folder / f"{name}.json", used_icons(icons, world, style))
        write_json(folder / "sources.json", records)
        write_json(folder / "names.json", plain_words(words, world))


def plain_words(words: Counter[str], world: World) -> dict[str, int]:
    """Words of icon names and how often each occurs: letters only, and no held-out words."""
    held_out = {part for concept in (*world.held_out_concepts, *world.held_out_styles) for part in concept.split()}
    found = {}
    for word, count in words.items():
        if word.isascii() and word.isalpha() and not any(part in word for part in held_out):
            found[word] = count
    return found


def fetch(name: str, package: Package, folder: Path) -> Path:
    """Download one package with ``npm pack``; raises InputError if its checksum is not that of params.yaml."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"@iconify-json/{name}@{package.version}"]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
    except FileNotFoundError:
        raise InputError("npm", "is not installed", "install Node.js; only rebuilding the miniature needs it") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise InputError(name, f"could not be fetched ({error})", "check the network and npm's registry") from error
    archive = folder / f"iconify-json-{name}-{package.version}.tgz"
    if sha256_file(archive) != package.sha256:
        raise InputError(name, "has another sha256 than in params.yaml", "check from which registry npm downloads")
    return archive


def read_member(archive: Path, member: str) -> dict[str, Any]:
    """One JSON file of an npm archive."""
    with tarfile.open(archive) as tar:
        try:
            file = tar.extractfile(f"package/{member}")
        except KeyError:
            file = None
        if file is None:  # none of that name, or no file
            raise InputError(archive.name, f"has no {member}", "choose another version of the package")
        data: dict[str, Any] = json.load(file)
    return data


def record(name: str, package: Package, info: dict[str, Any], style: str) -> dict[str, str]:
    """Origin, author and licence of a package; raises InputError when the licence is not permissive."""
    licence = str(info["license"]["spdx"])
    if licence not in PERMISSIVE:
        raise InputError(
            name, f"has the licence {licence}", f"use only icon sets with a licence of {', '.join(PERMISSIVE)}"
        )
    author = info["author"]
    return {
        "style": style,
        "version": package.version,
        "sha256": package.sha256,
        "licence": licence,
        "licence_url": str(info["license"].get("url", "")),
        "title": str(info["name"]),
        "author": str(author["name"]),
        "author_url": str(author.get("url", "")),
    }


def used_icons(data: dict[str, Any], world: World, style: str) -> dict[str, dict[str, Any]]:
    """By concept: the SVG body and its view box, of the first icon name that the set knows."""
    used = {}
    for concept, names in world.icons(style).items():
        icon = next((found for name in names if (found := find(data, name))), None)
        if icon:
            box = [icon.get(key, data.get(key, default)) for key, default in BOX.items()]
            used[concept] = {"body": icon["body"], "box": box}
    return used


BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # Iconify's defaults


def find(data: dict[str, Any], name: str) -> dict[str, Any] | None:
    """An icon by name. An alias that only points to its parent is followed; one that turns or flips it is not."""
    alias = data.get("aliases", {}).get(name)
    if alias and set(alias) == {"parent"}:
        name = alias["parent"]
    icon: dict[str, Any] | None = data["icons"].get(name)
    return icon


if __name__ == "__main__":
    run(source)
