"""The templates of pages."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment() -> Environment:
    """The Jinja environment of this folder's templates; every value is escaped, a missing value is an error."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined, "keep_trailing_newline": True}
    return Environment(loader=loader, autoescape=True, **options)  # type: ignore[arg-type]
