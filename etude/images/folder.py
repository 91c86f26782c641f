"""What a folder of pictures holds: which files are tried as pictures, and which only lie beside them."""

from __future__ import annotations

from pathlib import Path

from etude.core.errors import InputError

# What lies beside pictures without being one; everything else is tried by its content, whatever its suffix.
BESIDE = frozenset(
    {".txt", ".caption", ".captions", ".cap", ".tags", ".text"}
    | {".md", ".rst", ".html", ".pdf", ".log", ".xmp", ".xml", ".aae", ".ini", ".db", ".zip"}
    | {".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".py", ".dvc", ".npz", ".npy", ".pt"}
    | {".safetensors"}
)
MASK = "_att"  # ends the stem of a mask that lies beside its picture, as DreamArtist names them
CARDS = frozenset({"license", "licence", "notice", "readme", "credits", "attribution", "copying"})


def list_files(folder: Path | str) -> list[str]:
    """All files below ``folder``, hidden ones left out, as sorted POSIX names relative to it.

    Raises InputError for a folder that is not here, and for a name that is no text, which no listing could hold.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if folder.with_name(f"{folder.name}.dvc").exists():
            raise InputError(folder, "is tracked, but its content is not here", f"run `dvc pull {folder}`")
        raise InputError(folder, "is not a folder", "put the pictures there, or correct the folder's name")
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(path.as_posix() for path in paths if not any(map(_hidden, path.parts)))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(folder, f"holds {name!a}, a name that is not UTF-8", "rename that file") from None
    return names


def list_pictures(folder: Path | str) -> dict[str, str | None]:
    """The files below ``folder`` to be read as pictures, all but captions, masks, caches, cards and the like.

    Each with the attention mask beside it, if there is one: ``otter.png`` → ``otter_att.png``, of whatever suffix.
    """
    stems = {name: Path(name).with_suffix("").as_posix() for name in list_files(folder) if _picture(Path(name))}
    wanted = {stem + MASK for stem in stems.values()}
    masks = {stem: name for name, stem in stems.items() if stem in wanted}
    return {name: masks.get(stem + MASK) for name, stem in stems.items() if stem not in wanted}


def _hidden(part: str) -> bool:
    return part.startswith(".") or part in {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"}


def _picture(name: Path) -> bool:
    return name.suffix.lower() not in BESIDE and not (name.suffix == "" and name.name.lower() in CARDS)
