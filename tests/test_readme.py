"""What the README names exists."""

from __future__ import annotations

import re
import subprocess

import pytest

from etude.core.method import method_names
from tests.documents import assert_exists, broken_links, command_lines
from tests.shipped import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", command_lines(ROOT / "README.md"))
def test_a_command_of_the_readme_exists_with_its_options(line: str) -> None:
    assert_exists(line)


def test_the_map_names_what_is_there_and_all_of_it() -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE))
    assert [entry for entry in named if not (ROOT / entry).exists()] == []
    folders = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tops = {f"{name.split('/')[0]}/" for name in tracked if "/" in name}
    missing = {top for top in tops & folders if not any(entry.startswith(top) for entry in named)}
    assert missing == set()


def test_every_method_has_a_row_and_every_link_leads_somewhere() -> None:
    assert set(re.findall(r"^\| \[(\w+)\]\(pipelines/", README, re.MULTILINE)) == set(method_names())
    assert broken_links(ROOT / "README.md") == []


def test_the_third_line_leads_to_the_guide() -> None:
    assert "](docs/guide.md)" in README.splitlines()[2]


@pytest.mark.parametrize("method", method_names())
def test_a_methods_readme_is_short_and_has_the_sections_that_help_to_choose(method: str) -> None:
    page = ROOT / "pipelines" / method / "README.md"
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    expected = ["What it changes", "When to choose it", "What was measured", "What it costs", "The files"]
    assert [section for section in sections if section in expected] == expected
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", text)
    assert {"../../evidence/results.md", f"../../docs/reference.md#{method}"} <= set(links)
    assert broken_links(page) == []


def test_what_people_type_is_called_etude_everywhere() -> None:
    pattern = r"python3? -m (commands|flows|evidence)\b"
    files = [":!CHANGELOG.md", ":!tests/test_readme.py"]
    command = ["git", "grep", "-nIE", pattern, "--", *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")  # 1: nothing found
