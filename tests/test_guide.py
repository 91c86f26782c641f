"""What docs/guide.md names exists: commands with their options, links, keys, formats, folders, messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.core.method import load_method, method_names
from etude.core.params import read_yaml
from etude.formats import FORMATS
from etude.pages.programs import PROGRAMS, USES
from tests.documents import assert_exists, assert_named, broken_links, command_lines
from tests.shipped import ROOT, held

GUIDE = ROOT / "docs/guide.md"
TEXT = GUIDE.read_text(encoding="utf-8")
OF_DVC = {"No such file or directory", "missing data", "Is your cache up to date?", "Unable to acquire lock"}
OF_DVC |= {"No space left on device"}  # an error of the system
FILLED = {"the loss is nan": "the loss is {value}"}  # messages that contain a value
INLINE = re.compile(r"`((?:etude|dvc|make|git) [^`]+)`")


def table_under(heading: str) -> list[list[str]]:
    """The cells of the first table of a section, row by row, without the table's head."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.mark.parametrize("line", command_lines(GUIDE))
def test_a_command_of_the_guide_exists_with_its_options(line: str) -> None:
    assert_exists(line)


@pytest.mark.parametrize("text", sorted(set(INLINE.findall(TEXT))))
def test_a_command_that_a_sentence_names_exists(text: str) -> None:
    assert_named(text)


def test_every_link_of_the_guide_leads_somewhere() -> None:
    assert broken_links(GUIDE) == []


def test_a_link_without_a_target_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[here](#one) [there](#two) [away](other.md) [out](https://example.org/)", encoding="utf-8")
    assert broken_links(page) == ["#two", "other.md"]


def test_every_parameter_that_a_command_of_the_guide_sets_exists() -> None:
    given = re.findall(r"-S (\S+?):([\w.]+)=", TEXT)
    assert given
    for file, key in given:
        value = read_yaml(held(file))
        for part in key.split("."):
            assert part in value, f"{file}: {key}"
            value = value[part]


def test_every_key_that_a_link_names_is_the_key_that_it_leads_to() -> None:
    links = re.findall(r"\[([^\]]+)\]\(reference\.md#([\w.]+)\)", TEXT)
    keyed = [(match[1], anchor) for text, anchor in links if (match := re.match(r"`([\w.]+)", text))]
    assert [pair for pair in keyed if not f".{pair[1]}".endswith(f".{pair[0]}") and not starts(*pair)] == []


def starts(key: str, anchor: str) -> bool:
    """Whether the text names the group that the key of the link is in."""
    return f".{key}." in f"{anchor}."


def expected_rows() -> Iterator[list[str]]:
    """The content of methods' pages about each format, as cells of the guide's table, for the name owl."""
    exported = {form for method in method_names() for form in load_method(method).formats}
    for form in exported & set(USES):
        for use in USES[form]:
            if use.program not in PROGRAMS or use.encoders:
                continue
            files = []
            for pattern, folder in use.files:
                to = f" → `{folder}`" if folder else ""
                files.append(f"`{pattern.format(stem='owl', word='owl')}`{to}")
            word = use.word.format("owl") or "owl"
            said = f"{word} {use.tag.format(stem='owl')}".strip()
            prompt = f"`{said}`" if "pipe(" not in use.code else ""
            yield [f"`{form}`", use.program, "<br>".join(files), use.how.format(stem="owl"), prompt]


def test_the_table_of_programs_says_what_the_pages_of_methods_say() -> None:
    rows = [row[1:] for row in table_under("Use it")]
    assert sorted(rows) == sorted(expected_rows())


def test_every_method_and_format_of_the_table_exists() -> None:
    for methods, form, *_ in table_under("Use it"):
        assert form.strip("`") in FORMATS
        for method in methods.split(", "):
            assert form.strip("`") in load_method(method).formats


def test_every_method_is_named() -> None:
    assert [name for name in method_names() if name not in TEXT] == []


def test_every_message_is_one_that_the_code_has() -> None:
    code = ""
    for room in ("etude", "commands", "tasks", "flows"):
        code += "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / room).rglob("*.py")))
    messages = set(re.findall(r"`([^`]+)`", " ".join(row[0] for row in table_under("When something failed"))))
    missing = [text for text in messages - OF_DVC if FILLED.get(text, text) not in code]
    assert missing == []
