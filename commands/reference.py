"""docs/reference.md, the page of all parameters: ``etude reference``."""

from __future__ import annotations

from tasks.shell import run


def reference() -> None:
    """Write docs/reference.md: every key of the params files, with meaning, type, bounds and values.

    Example: etude reference
    """
    from commands.parameters import write_page

    write_page()


if __name__ == "__main__":
    run(reference)
