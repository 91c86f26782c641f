"""All pictures of a set as a table, for a spreadsheet or a script: `pictures.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO

from etude.inspection.contents import Contents
from etude.inspection.findings import Finding
from etude.inspection.looks import Measures

COLUMNS = (
    *("file", "picture", "width", "height", "training_width", "training_height", "kept", "enlarged"),
    *("blur", "contrast", "tokens", "from", "caption", "doubts"),
)


def as_csv(contents: Contents, measures: Mapping[str, Measures], findings: Sequence[Finding]) -> str:
    """A row for each training picture, copies left out; `doubts` names the findings of its file."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(contents, measures, findings))
    return text.getvalue()


def _rows(
    contents: Contents, measures: Mapping[str, Measures], findings: Sequence[Finding]
) -> Iterator[tuple[object, ...]]:
    for name, picture in contents.pictures.items():
        seen = measures[name]
        doubts = "; ".join(finding.title for finding in findings if name in finding.pictures)
        sizes = *picture.size, *picture.target
        for identifier, caption in picture.captions.items():
            kept, enlarged = f"{picture.kept:.3f}", int(picture.first["enlarged"])
            measured = f"{seen.blur:.3f}", f"{seen.contrast:.1f}"
            told = caption.length.tokens, caption.origin, caption.text
            yield name, identifier, *sizes, kept, enlarged, *measured, *told, doubts
