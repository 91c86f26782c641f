"""Bring pictures into the project: copy them to ``data/raw/<set>``, track them with DVC, add the set to params.yaml."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from etude.errors import ConflictError, InputError, ParamsError
from etude.files import REPLACE, atomic_path, replace_folder, sha256_file
from etude.method import method_names
from etude.params import nearest, read_yaml
from tasks import run
from tasks.console import progress, say, warn
from tasks.preset import rewrite
from tasks.tracking import track

RAW = Path("data/raw")
RESERVED = {"raw", "samples"}  # folders of data/ that are no set's
SAID = {"caption": "[name], [caption]", "templates": ["[name], [filewords]"]}  # the word, whatever captions say
UNSAID = ("[caption]", ["[filewords]"])
PROMPTS = ("[name]", "a picture of [name]", "a drawing of [name]", "[name] on a red background")
SHOWN = 5


def images(
    source: Annotated[Path, typer.Option("--from", help="The folder the pictures are in, texts beside them.")],
    name: Annotated[str, typer.Option("--set", help="What the image set is called: small letters, digits, _.")],
    method: Annotated[str, typer.Option(help="A method that shall learn from it.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
) -> None:
    """Copy the pictures and the .txt captions of a folder into the project, as the image set NAME."""
    source, target = source.expanduser(), RAW / name
    _check_names(name, method, target)
    files = _chosen(source, target)
    _refuse_overwriting(source, files, target, replace)
    if source.resolve() != target.resolve():
        with replace_folder(target) as out:
            for file in progress(files, f"{name}: copy"):
                (out / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, out / file)
    track([target], "mend that and run this again")
    _add_set(name, target)
    texts = sum(file.endswith(".txt") for file in files)
    say(f"{len(files) - texts} pictures and {texts} texts are in {target}, tracked by {target}.dvc; set `{name}`")
    changed = [f"{target}.dvc", f"{RAW}/.gitignore", "params.yaml"]
    if method:
        changed.append(_point(method, name))
    say("next: dvc repro" if method else f"next: make images FROM={source} SET={name} METHOD=lora (or another method)")
    say(f"to keep it: git add {' '.join(changed)} && git commit")


def _point(method: str, name: str) -> str:
    """Let a method learn from the set; its params file.

    The captions of the sample sets say the word; those of other pictures hardly do, so it is put before them.
    """
    own = f"pipelines/{method}/params.yaml"
    values = read_yaml(own)
    said = {key: SAID[key] for key in SAID if values.get("trigger") and values.get(key) in UNSAID}
    rewrite(Path(own), own, {"set": name, **said})
    say(f"{method} learns from it; `name: {values.get('name')}` in {own} is the word that stands for it: yours?")
    for key, value in said.items():
        say(f"`{key}: {value}` in {own} puts that word before the captions")
    return own


def _check_names(name: str, method: str, target: Path) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(name, "is no name for an image set", "use small letters, digits and _, a letter first")
    sets = read_yaml("params.yaml")["sets"]
    if name in RESERVED or sets.get(name, str(target)) != str(target):
        taken = sets.get(name, f"data/{name}, which has another use")
        raise ConflictError(name, f"this name stands for {taken}", "choose another name with SET=")
    if method and method not in method_names():
        raise ParamsError(method, f"there is no such method{nearest(method, method_names())}", "choose one of these")


def _chosen(source: Path, target: Path) -> list[str]:
    """The pictures below ``source``, by their content, with masks and texts beside them, as sorted relative names."""
    from etude.captions.beside import other_captions
    from etude.images.decode import fault_of
    from etude.images.folder import list_files, list_pictures

    if target.resolve() != source.resolve() and target.resolve().is_relative_to(source.resolve()):
        raise InputError(source, f"holds {target} itself", "choose the folder with the pictures alone")
    masks = list_pictures(source)
    faults = {file: fault_of(source / file) for file in masks}
    pictures = [file for file, fault in faults.items() if fault is None]
    others = [f"{file} ({fault})" for file, fault in faults.items() if fault]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        warn(f"{len(others)} files are not copied: {'; '.join(others[:SHOWN])}{more}")
    for suffix, count in sorted(other_captions(source, pictures).items()):
        warn(f"{count} pictures have a {suffix} file and no .txt: it is not copied. Next: rename them to .txt")
    if not pictures:
        raise InputError(source, "holds no pictures", "name a folder with pictures (PNG, JPEG, WebP, …)")
    stems = {Path(file).with_suffix("") for file in pictures}
    texts = [file for file in list_files(source) if file.endswith(".txt") and Path(file).with_suffix("") in stems]
    return sorted({*pictures, *texts, *(mask for file in pictures if (mask := masks[file]))})


def _refuse_overwriting(source: Path, files: list[str], target: Path, replace: bool) -> None:
    """Equal pictures may come in again; others take their place only on request."""
    from etude.images.folder import list_files

    if replace or not target.exists():
        return
    there = set(list_files(target))
    changed = sum(sha256_file(source / file) != sha256_file(target / file) for file in there & set(files))
    if there != set(files) or changed:
        new, gone = len(set(files) - there), len(there - set(files))
        fault = f"holds other files: {new} would come, {gone} would go, {changed} would change"
        raise ConflictError(target, fault, "choose another SET, or run `python -m tasks.images` with --replace")


def _add_set(name: str, target: Path) -> None:
    """Write the set, and prompts to draw it with, into params.yaml; every other line stays as it is."""
    path = Path("params.yaml")
    data = read_yaml(path)
    text = path.read_text(encoding="utf-8")
    if name not in data["sets"]:
        text = insert(text, "sets", [f"{name}: {target.as_posix()}"])
        data["sets"][name] = target.as_posix()
    if name not in data["prompts"]:
        text = insert(text, "prompts", [f"{name}:", *(f'  - "{prompt}"' for prompt in PROMPTS)])
        data["prompts"][name] = list(PROMPTS)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if not _reads_as(temporary, data):
            fault = f"has `sets` or `prompts` in an unusual form; {target} is tracked"
            raise ParamsError(path, fault, f"add `{name}` to both by hand")


def _reads_as(path: Path, data: dict[str, Any]) -> bool:
    try:
        return read_yaml(path) == data
    except ParamsError:
        return False


def insert(text: str, block: str, lines: list[str]) -> str:
    """``text`` (YAML) with ``lines`` as the last entry of the top-level mapping ``block``, indented as that is."""
    rows = [f"{row}\n" for row in text.splitlines()]
    start = next((number for number, row in enumerate(rows) if row.startswith(f"{block}:")), None)
    if start is None:
        return text
    inside = [start]
    for number, row in enumerate(rows[start + 1 :], start + 1):
        if row.strip() and not row.startswith((" ", "#")):
            break
        if row.startswith(" ") and row.strip():
            inside.append(number)
    indent = re.match(" *", rows[inside[1]])[0] if len(inside) > 1 else "  "  # type: ignore[index]  # it matches any row
    end = inside[-1] + 1
    return "".join([*rows[:end], *(f"{indent}{line}\n" for line in lines), *rows[end:]])


if __name__ == "__main__":
    run(images)
