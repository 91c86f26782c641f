"""Sections of a method's README, for its page: nobody has to write them twice."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from etude.core.files import file_name

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def section(readme: Path, heading: str) -> Markup:
    """The section ``## heading`` as HTML, without tables; empty if there is no such section.

    HTML in the text is escaped.
    """
    kept: list[Token] = []
    inside = False
    for token in _tokens(readme, heading):
        if token.type == "table_open":
            inside = True
            if len(kept) > 2 and kept[-2].content.endswith(":"):
                del kept[-3:]  # the paragraph that announces the table
        if not inside:
            kept.append(token)
        inside = inside and token.type != "table_close"
    return Markup(MARKDOWN.renderer.render(kept, MARKDOWN.options, {}))


def files(readme: Path, heading: str, name: str) -> dict[str, str]:
    """The table under ``## heading`` whose first column names files: file → text of the second column.

    ``<name>`` in a file's name is replaced by the learned ``name``, without spaces and punctuation.
    """
    stem = file_name(name)
    rows: list[list[str]] = []
    for token in _tokens(readme, heading):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level == 4:  # a cell
            rows[-1].append(token.content.replace("`", "").replace("<name>", stem))
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _tokens(readme: Path, heading: str) -> list[Token]:
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    found = re.search(rf"^## {re.escape(heading)}$\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return MARKDOWN.parse(found[1]) if found else []
