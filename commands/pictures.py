"""Bring pictures into the project: copy them to ``data/raw/<set>``, let DVC track them and methods learn from them."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

from commands.pointing import MINIATURE, add_set, draws_photos, point, refuse, wordless
from commands.rewriting import drafts
from commands.tracking import track
from etude import sources
from etude.core.errors import ConflictError, InputError
from etude.core.files import replace_folder, sha256_file
from etude.core.params import read_yaml
from etude.project import RESERVED, Project, check
from tasks.shell.console import first_of, progress, say, shorten, warn

RAW = Path("data/raw")


def bring(source: Path, name: str, methods: Sequence[str], word: str, kind: str, replace: bool) -> None:
    """Copy the pictures of a folder to the image set ``name``; ``methods`` learn ``word``, a ``kind``, from it.

    Raises an EtudeError, before anything is copied or changed.
    """
    source, target, chosen = source.expanduser(), RAW / name, list(dict.fromkeys(methods))
    _check_name(name, target)
    refuse(chosen, word, kind)
    files = _chosen(source, target)
    kept = _masks_that_stay(source, files, target)
    _refuse_overwriting(source, files, kept, target, replace)
    with drafts() as draft:
        add_set(draft, name, target)
        changes = point(draft, chosen, name, word, kind) if chosen else []
        project = check(draft)  # nothing is copied or changed unless the whole draft is valid
        silent = wordless(draft, chosen)
        if source.resolve() != target.resolve():
            with replace_folder(target) as out:
                for file in progress([*files, *kept], f"{name}: copy"):
                    (out / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile((target if file in kept else source) / file, out / file)
        track([target], "fix that and run this again")
    if kept:
        say(
            f"masks that {source} lacks stay in {target}; delete them there if they are wrong: {first_of(sorted(kept))}"
        )
    say(f"{_counted(files)} are in {target}, tracked by {target}.dvc; set `{name}`")
    for change in changes:
        say(change)
    if silent:
        fault = f"{' and '.join(silent)}: with `trigger: false`, [name] in prompts is replaced by nothing"
        warn(f"{fault}. Next: check that `prompts.{name}` in params.yaml makes sense without it")
    _tell_next(project, chosen, f"--from {shlex.quote(str(source))} --set {name}")
    own = [f"pipelines/{method}/params.yaml" for method in chosen]
    say(f"to keep it: git add {' '.join([f'{target}.dvc', f'{RAW}/.gitignore', 'params.yaml', *own])} && git commit")


def _tell_next(project: Project, methods: list[str], asked: str) -> None:
    """Print the next step: choose a method, a base that can draw photos, fetch missing models, or run."""
    if not methods:
        say(f"next: etude images {asked} --name word --class dog --method lora (or another method, or several)")
    elif not draws_photos(project.base):
        warn(f"the base is {MINIATURE}, which can draw only emoji: with it, no method can learn from photos")
        say("next, for photos: etude preset sd15, then etude base, then dvc repro; for emoji: dvc repro")
    elif sources.missing(Path(), project):
        say("next: etude base, then dvc repro")
    else:
        say("next: dvc repro")


def _check_name(name: str, target: Path) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or YAML(typ="safe", pure=True).load(name) != name:
        raise InputError(
            name,
            "is not a valid name for an image set",
            "use small letters, digits and _, a letter first, and not true or null",
        )
    sets = read_yaml("params.yaml")["sets"]
    if name in RESERVED or sets.get(name, str(target)) != str(target):
        taken = sets.get(name, f"data/{name}, which is not an image set")
        raise ConflictError(name, f"this name is already in use for {taken}", "choose another --set")


def _chosen(source: Path, target: Path) -> list[str]:
    """The pictures below ``source``, recognised by content, with their masks and texts, as sorted relative names."""
    from etude.core.beside.captions import Captions
    from etude.core.beside.repeats import repeated_folders
    from etude.images.decode import fault_of
    from etude.images.folder import choose_pictures, list_folder, name_unused

    if target.resolve() != source.resolve() and target.resolve().is_relative_to(source.resolve()):
        raise InputError(
            source, f"contains {target}, where the pictures go", "give --from a folder with the pictures only"
        )
    files, unreadable = list_folder(source)
    masks = choose_pictures(files)
    faults = {file: fault_of(source / file) for file in masks}
    pictures = [file for file, fault in faults.items() if fault is None]
    others = [f"{shorten(file)} ({fault})" for file, fault in (faults | unreadable).items() if fault]
    if others:
        warn(f"{len(others)} files are not copied: {first_of(others)}")
    if not pictures:
        fault = f"holds no pictures{f': {others[0]}' if others else ''}"
        raise InputError(source, fault, "give --from a folder with pictures (PNG, JPEG, WebP, …)")
    _refuse_class_images(source, pictures)
    captions = Captions(source, files, pictures)
    found = (captions.find([file]) for file in pictures)
    chosen = {*pictures, *(existing.file for existing in found if existing and existing.origin != "folder")}
    chosen.update(mask for file in pictures if (mask := masks[file]))
    chosen.update(captions.faults)  # *caption* names them, and people correct them in the set
    if unused := name_unused(files, chosen | {file for file, fault in faults.items() if fault}):
        warn(f"also not copied, because they are not used: {first_of(unused)}")
    if folders := repeated_folders(pictures):
        say(f"pictures count as often as the names of their folders say: {first_of(folders)}")
    return sorted(chosen)


def _refuse_class_images(source: Path, pictures: Sequence[str]) -> None:
    """Raise InputError for the folder that kohya's GUI makes: its class images would be learned like other pictures."""
    folders = {file.partition("/")[0] for file in pictures}
    if {"img", "reg"} <= folders:
        fault = "holds kohya's folders `img` (pictures to learn) and `reg` (pictures of the class)"
        each = f"--from {shlex.quote(str(source / 'img'))}, and --from {shlex.quote(str(source / 'reg'))} --set NAME"
        action = f"run `etude images` for each folder: {each}; then name NAME in `class_images.real` of a method"
        raise InputError(source, fault, action)


def _counted(files: list[str]) -> str:
    from etude.images.folder import choose_pictures

    masks = choose_pictures(files)
    shown = len({mask for mask in masks.values() if mask})
    texts = len(files) - len(masks) - shown
    return f"{len(masks)} pictures{f', {shown} masks' if shown else ''} and {texts} files with captions"


def _masks_that_stay(source: Path, files: list[str], target: Path) -> set[str]:
    """The masks in ``target`` that the source lacks, such as those of `etude masks`, if their pictures stay the same.

    A mask that would then also belong to another picture does not stay.
    """
    from etude.images.folder import choose_pictures, list_files

    if not target.exists() or source.resolve() == target.resolve():
        return set()
    new, kept = choose_pictures(files), set()
    there = choose_pictures(list_files(target))
    for file, mask in there.items():
        if mask and mask not in files and new.get(file, mask) is None:
            kept.add(mask)
    for file, mask in choose_pictures([*files, *kept]).items():
        same = file in there and sha256_file(source / file) == sha256_file(target / file)
        if mask in kept and not (same and there[file] == mask):
            kept.discard(mask)
    return kept


def _refuse_overwriting(source: Path, files: list[str], kept: set[str], target: Path, replace: bool) -> None:
    """Raise ConflictError if other files are there already, unless ``replace``; equal files may be copied again."""
    from etude.images.folder import list_files

    if replace or not target.exists():
        return
    there = set(list_files(target)) - kept
    changed = sum(sha256_file(source / file) != sha256_file(target / file) for file in there & set(files))
    if there != set(files) or changed:
        new, gone = len(set(files) - there), len(there - set(files))
        fault = f"holds other files: --replace would add {new}, delete {gone} and change {changed}"
        raise ConflictError(target, fault, "choose another --set, or run the command with --replace")
