"""Write the page of an image set: ``artifacts/sets/<set>/``, with `index.html` and all pictures of the set."""

from __future__ import annotations

from pathlib import Path

from etude.base.settings import Text
from etude.core.files import atomic_path
from etude.core.params import Schema, image_folder, pick
from tasks.shell import publish, run
from tasks.shell.console import progress, say


class StageParams(Schema):
    """The part of params.yaml that says how much of a caption is read."""

    text: Text


def set_page(name: str) -> None:
    """Write the page of the image set NAME, from its folder and from what *prepare* and *caption* made of it."""
    folder, chunks = image_folder(name), pick("params.yaml", StageParams).text.chunks
    from etude.core.workers import in_order
    from etude.inspection.contents import read_set
    from etude.inspection.findings import find_doubts
    from etude.inspection.looks import Looks
    from etude.inspection.page import Pages
    from etude.inspection.table import as_csv

    contents = read_set(name, folder, Path("data", name), chunks)
    looks = Looks(name, folder, Path("data", name, "prepared"))
    made = in_order(looks.measures, list(contents.pictures.values()))
    names = progress(list(contents.pictures), f"{name}: look")
    measures = dict(zip(names, made, strict=True))
    findings = list(find_doubts(contents, measures))
    pages = Pages(contents, looks, findings)
    with publish(Path("artifacts", "sets", name)) as out:
        for number, file in enumerate(progress(pages.files, f"{name}: pages")):
            with atomic_path(out / file) as path:
                path.write_text(pages.render(number), encoding="utf-8", newline="\n")
        with atomic_path(out / "pictures.csv") as path:
            path.write_text(as_csv(contents, measures, findings), encoding="utf-8", newline="\n")
    for finding in findings:
        say(f"{name}: {finding.title.lower()}: {len(finding.pictures)}")
    say(f"{name}: artifacts/sets/{name}/index.html")


if __name__ == "__main__":
    run(set_page)
