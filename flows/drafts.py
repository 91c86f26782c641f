"""Drafts of the repository: only its params files, with overrides applied, to check them before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from etude.core.errors import ParamsError
from etude.project import check as check_all
from etude.project import params_files
from flows import plan, repository


def copy_params(root: Path, folder: Path) -> None:
    """Make `folder` a draft of the repository as it is."""
    for file in params_files(root):
        to = folder / file.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to)


def check(root: Path, combinations: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """Try overrides by file, each combination on a draft of its own.

    Raises InputError on an unknown file or key, and ParamsError, which names the combination, on a value that no task
    accepts.
    """
    with TemporaryDirectory(prefix="draft-") as temporary, chdir(root):
        for number, values in enumerate(combinations):
            draft = Path(temporary, str(number))
            copy_params(root, draft)
            repository.override(draft, values)
            try:
                if root.resolve() == plan.CHECKOUT:
                    check_all(draft)
            except ParamsError as error:
                shown = " ".join(f"{file}:{text}" for file, texts in values.items() for text in texts)
                error.args = (f"-S {shown}: {str(error).replace(f'{draft}/', '')}",)
                raise
