"""What is shown in Prefect's UI: names and prompts as they are."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt


@pytest.mark.parametrize(
    "text",
    [
        "a <img src=x onerror=alert(1)> | `code` & &lt; **bold** _thin_ ~~gone~~",
        "[here](javascript:alert(1)) ![x](http://a.b/c) <https://a.b>",
        "# 1. * - + > \\| $x$ 'q' \"q\" é → 0.1",
    ],
)
def test_names_and_prompts_are_no_mark_up_in_what_prefect_shows(text: str) -> None:
    from flows.artifacts import plain

    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"| a |\n|---|\n| {plain(text)} |")
    (cell,) = re.findall("<td>(.*)</td>", page)
    assert "<" not in cell
    assert html.unescape(cell) == text


def test_a_text_is_one_line_and_holds_no_address_that_becomes_a_link() -> None:
    from flows.artifacts import plain

    shown = plain("two\nlines https://a.b WWW.a.b a@b.org out/index.html")
    assert html.unescape(shown) == "two lines https://a.b WWW.a.b a@b.org out/index.html"
    assert not re.search(r"://|www\.|@|\n", shown, re.IGNORECASE)
