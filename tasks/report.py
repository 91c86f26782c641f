"""Write the report that compares the chosen methods: ``artifacts/report/``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from etude.core.files import atomic_path, write_json
from etude.core.params import Schema, pick
from tasks.shell import publish, run
from tasks.shell.console import say

__all__ = ["StageParams", "report"]


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    methods: list[str] = Field(min_length=1)


def report() -> None:
    """Compare the chosen methods, from the data of their pages; other methods' pages are ignored."""
    stage_params = pick("params.yaml", StageParams)
    from etude.pages.report import as_csv, entries, numbers, render, rows

    methods = entries(Path("artifacts", "pages"), stage_params.methods)
    with publish(Path("artifacts", "report")) as out:
        table = list(rows(methods))
        write_json(out / "metrics.json", {row["method"]: numbers(row) for row in table})
        for name, text in {"methods.csv": as_csv(table), "index.html": render(methods)}.items():
            with atomic_path(out / name) as file:
                file.write_text(text, encoding="utf-8", newline="\n")
    say(f"{', '.join(stage_params.methods)}: artifacts/report/index.html")


if __name__ == "__main__":
    run(report)
