from __future__ import annotations

from pathlib import Path

import pytest

from etude.pages.readme import files, section

TEXT = """# A

## When to choose it

The *usual* first choice. <script>x</script>

## The files

They lie here:

| file | loads in |
|---|---|
| `<name>.pt` | A1111 |

Write `<lora:otter:1>`.
"""


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path / "README.md"


def test_a_section_ends_where_the_next_begins_and_its_html_is_escaped(readme: Path) -> None:
    made = section(readme, "When to choose it")
    assert made == "<p>The <em>usual</em> first choice. &lt;script&gt;x&lt;/script&gt;</p>\n"


def test_tables_are_left_out_with_the_line_that_announces_them(readme: Path) -> None:
    assert section(readme, "The files") == "<p>Write <code>&lt;lora:otter:1&gt;</code>.</p>\n"


def test_a_table_of_files_tells_where_each_loads(readme: Path) -> None:
    told = files(readme, "The files", "otter")
    assert told["otter.pt"] == "A1111"
    assert "Write" not in " ".join(told)


def test_a_section_or_a_readme_that_is_not_there_is_empty(readme: Path) -> None:
    assert section(readme, "Size") == ""
    assert section(readme.with_name("NONE.md"), "The files") == ""


def test_a_table_that_nothing_announces_takes_no_other_line_with_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "## A\n\nKept.\n\n| a |\n|---|\n| b |\n\n## B\n\n| a |\n|---|\n| b |\n\nKept too.\n"
    )
    assert section(tmp_path / "README.md", "A") == "<p>Kept.</p>\n"
    assert section(tmp_path / "README.md", "B") == "<p>Kept too.</p>\n"
    assert files(tmp_path / "README.md", "A", "owl") == {}  # a table of one column says nothing of a file


def test_only_the_paragraph_that_announces_a_table_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("## A\n\nKept.\n\nThey are:\n\n| a |\n|---|\n| b |\n")
    assert section(tmp_path / "README.md", "A") == "<p>Kept.</p>\n"


def test_a_name_becomes_the_stem_of_a_file(readme: Path) -> None:
    assert list(files(readme, "The files", "<red otter>")) == ["file", "redotter.pt"]
