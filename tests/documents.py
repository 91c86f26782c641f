"""Check what Markdown pages name: their command lines, links and anchors must exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from commands import app
from tests.shipped import ROOT
from tests.stranger import command_lines

__all__ = ["assert_exists", "assert_named", "broken_links", "command_lines"]
OTHERS = ("cp", "git", "mkdir", "source")  # programs whose options are not checked
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ANCHOR = re.compile(r'<a id="([^"]+)"')
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
FENCED = re.compile(r"```.*?```", re.DOTALL)


def assert_exists(line: str) -> None:
    """Assert that the command of a line exists, and has the options in the line."""
    words = shlex.split(line)
    if words[0] == "make":
        run = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    elif words[0] == "etude":
        assert words[1] in app.COMMANDS, line
        assert _options(words) <= _options_of(words[1]), line
    elif words[0] == "dvc":
        _parse(words[1:])
    else:
        assert words[0] in OTHERS, line
    for name in re.findall(r"(?:presets/|etude preset )(\w+)", line):
        assert (ROOT / "presets" / f"{name}.yaml").exists()


def assert_named(text: str) -> None:
    """Assert that the command in a sentence exists; a sentence may leave out required arguments."""
    words = shlex.split(text)
    if words[0] != "dvc":
        assert_exists(text)
        return
    with pytest.raises(SystemExit) as ended:
        _parse([word for word in words[1:] if word != "…"] + ["--help"])
    assert ended.value.code == 0, text


def broken_links(file: Path) -> list[str]:
    """The broken links of a page: their file, anchor or heading does not exist."""
    return [link for link in LINK.findall(file.read_text(encoding="utf-8")) if not _leads_somewhere(file, link)]


def _parse(words: list[str]) -> None:
    """Raise, or exit with a code other than 0, if DVC does not know the words."""
    from dvc.cli.parser import get_main_parser

    get_main_parser().parse_args(words)


def _leads_somewhere(file: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = file.parent / path if path else file
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(file: Path) -> set[str]:
    """The anchors of a page on GitHub: those of its headings, and those written in it."""
    text = file.read_text(encoding="utf-8")
    headings = HEADING.findall(FENCED.sub("", text))
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(ANCHOR.findall(text))


def _options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("-")}


def _options_of(command: str) -> set[str]:
    options: set[str] = set()
    for parameter in app.load(command).params:
        options |= set(parameter.opts)
    return options
