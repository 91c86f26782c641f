"""Before anything runs, check all parameters of the project or of drafts, and that the files they name are here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etude.core.errors import BELOW, ParamsError
from tasks.shell import run
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.project import Project


def check(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders with params.yaml and pipelines/.")] = None,
) -> None:
    """Check the params files of FOLDERS, or of this repository; one error lists the faults of all.

    For this repository it also checks that base, CLIP and pictures are here: DVC's own message would be less clear.

    Example: etude check
    """
    from etude import project, sources
    from etude.captions.settings import CAPTIONERS
    from etude.images.faces import refuse_missing
    from etude.training.settings import refuse_missing_trackers

    faults = []
    for folder in folders or [Path()]:
        try:
            checked = project.check(folder)
        except ParamsError as error:
            faults.append(str(error) if folder == Path() else f"{folder.name}: {error}")
    if faults:
        raise ParamsError("params", BELOW.join(faults), "correct them")
    if not folders:
        refuse_missing(checked.prepare.crop)
        refuse_missing_trackers(checked.trackers)
        for method in checked.methods:
            _refuse_missing_optimizer(method)
        lines = [*sources.faults(sources.missing(Path(), checked)), *sources.hidden(Path(), checked)]
        if lines:
            raise sources.SourcesError(lines)
        for method in checked.methods:
            _refuse_idle_masks(method, checked)
        for kind in checked.caption.captioners:
            CAPTIONERS[kind].refuse_missing(checked.caption)
    say("all parameters are fine" + ("" if folders else ", and all that they name is here"))


def _refuse_missing_optimizer(method: str) -> None:
    from etude.core.method import load_method
    from etude.core.params import load
    from etude.training.optimizer import refuse_missing
    from etude.training.plan import Trained

    file = Path("pipelines", method, "params.yaml")
    params = load(file, load_method(method).Params)
    if isinstance(params, Trained):
        refuse_missing(params.training.optimizer, file)


def _refuse_idle_masks(method: str, checked: Project) -> None:
    """Raise InputError if masks should count and no picture has one: the build would notice after other stages only."""
    from etude.core.method import load_method
    from etude.core.mixins import Concepts
    from etude.core.params import load
    from etude.images.folder import list_pictures
    from etude.training.masks import refuse_no_masks
    from etude.training.sets import FurtherSets

    if checked.prepare.alpha_mask:  # transparency is unknown until pictures are read
        return
    params = load(Path("pipelines", method, "params.yaml"), load_method(method).Params)
    learned = list(params.concepts) if isinstance(params, Concepts) else [params.set]
    learned += params.further_sets if isinstance(params, FurtherSets) else []
    folders = [checked.sets[name] for name in learned]
    masks = (mask for folder in folders for mask in list_pictures(folder).values())  # listed only if masks should count
    refuse_no_masks(params, masks, ", ".join(folders))


if __name__ == "__main__":
    run(check)
