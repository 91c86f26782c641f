"""What a folder of pictures holds: which files are tried as pictures, and which only lie beside them."""

from __future__ import annotations

from pathlib import Path

from etude.errors import InputError

# What lies beside pictures without being one; everything else is tried by its content, whatever its suffix.
BESIDE = frozenset(
    {".txt", ".caption", ".md", ".rst", ".html", ".pdf", ".log", ".xmp", ".xml", ".aae", ".ini", ".db", ".zip"}
    | {".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".py", ".dvc", ".npz", ".npy", ".pt"}
    | {".safetensors"}
)
MASK = "_att"  # ends the stem of a mask that lies beside its picture, as DreamArtist names them
CARDS = frozenset({"license", "licence", "notice", "readme", "credits", "attribution", "copying"})


def list_files(folder: Path | str) -> list[str]:
    """All files below ``folder``, hidden ones left out, as sorted POSIX names relative to it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "is not a folder", "put the pictures there, or correct the folder's name")
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in names if not any(_hidden(part) for part in name.parts))


def list_pictures(folder: Path | str) -> list[str]:
    """The files below ``folder`` to be read as pictures: all but captions, masks, caches, cards and the like."""
    names = [name for name in list_files(folder) if _picture(Path(name))]
    masks = set(_masks(names).values())
    return [name for name in names if name not in masks]


def list_masks(folder: Path | str) -> dict[str, str]:
    """Picture → the attention mask beside it: ``otter.png`` → ``otter_att.png``, of whatever suffix."""
    return _masks([name for name in list_files(folder) if _picture(Path(name))])


def _masks(names: list[str]) -> dict[str, str]:
    stems = {Path(name).with_suffix("").as_posix(): name for name in names}
    return {name: stems[stem + MASK] for stem, name in stems.items() if stem + MASK in stems}


def _hidden(part: str) -> bool:
    return part.startswith(".") or part in {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"}


def _picture(name: Path) -> bool:
    return name.suffix.lower() not in BESIDE and not (name.suffix == "" and name.name.lower() in CARDS)
