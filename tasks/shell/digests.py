"""Digests of the models that a stage reads: one file for each, in a folder that is the stage's dep.

The models themselves are not deps, because the number of deps in DVC cannot depend on parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from etude.core.errors import ParamsError
from etude.core.files import write_json
from etude.core.params import nearest
from etude.core.store import remembered_tree
from tasks.shell.console import say


def record_digest(folder: Path, name: str, models: Mapping[str, str], file: str, key: str) -> None:
    """Write the SHA-256 of the model that ``models`` calls NAME: ``<folder>/<name>.json``.

    ``models`` is the block ``key`` of the params file ``file``. Raises ParamsError.
    """
    if name not in models:
        raise ParamsError(file, f"`{key}` has no `{name}`{nearest(name, models)}", f"correct `{key}`")
    forget_others(folder, models)
    sha256 = remembered_tree(models[name])
    write_json(folder / f"{name}.json", {"path": models[name], "sha256": sha256})
    say(f"{name} is {models[name]} ({sha256[:10]})")


def forget_others(folder: Path, names: Collection[str]) -> None:
    """Delete the records in ``folder`` of what is no longer named.

    No stage makes these records any more, but the stage that depends on the folder would still depend on them.
    """
    for former in folder.glob("*.json"):
        if former.stem not in names:
            former.unlink(missing_ok=True)  # another of these stages may delete it at the same moment
