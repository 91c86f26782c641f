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
    tokens: list[Token] = []
    inside = False
    for token in _tokens(readme, heading):
        if token.type == "table_open":
            inside = True
            if len(tokens) > 2 and tokens[-2].content.endswith(":"):
                del tokens[-3:]  # the paragraph that announces the table
        if not inside:
            tokens.append(token)
        inside = inside and token.type != "table_close"
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


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
    match = re.search(rf"^## {re.escape(heading)}$\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return MARKDOWN.parse(match[1]) if match else []
