"""Write the page of a method: ``artifacts/pages/<method>/``."""

from __future__ import annotations

from pathlib import Path

from etude.core.files import atomic_path, write_json
from tasks.shell import publish, run
from tasks.shell.console import say


def page(method: str) -> None:
    """Write METHOD's page from the outs of its stages in ``artifacts/``."""
    from etude.pages.page import render
    from etude.pages.report import keep
    from etude.pages.sources import find

    findings = find(method)
    with publish(Path("artifacts", "pages", method)) as out:
        write_json(out / "page.json", keep(findings, out))
        with atomic_path(out / "index.html") as file:
            file.write_text(render(findings), encoding="utf-8", newline="\n")
    say(f"{method}: artifacts/pages/{method}/index.html")


if __name__ == "__main__":
    run(page)
