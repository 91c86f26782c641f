"""What the README says is there is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from commands import app
from etude.core.method import method_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.split("#")[0].strip()
]


@pytest.mark.parametrize("text", COMMANDS)
def test_a_command_of_the_readme_exists(text: str) -> None:
    words = shlex.split(text)
    if words[0] == "make":
        run = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    elif words[0] == "etude":
        assert words[1] in app.COMMANDS, text
    else:
        assert words[0] in ("dvc", "source"), text
    for name in re.findall(r"(?:presets/|etude preset )(\w+)", text):
        assert (ROOT / "presets" / f"{name}.yaml").exists()


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
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("method", method_names())
def test_a_methods_readme_is_short_and_has_the_sections_that_help_to_choose(method: str) -> None:
    text = (ROOT / "pipelines" / method / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    expected = ["What it changes", "When to choose it", "What was measured", "What it costs", "The files"]
    assert [section for section in sections if section in expected] == expected
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", text)
    assert {"../../evidence/results.md", f"../../docs/reference.md#{method}"} <= set(links)
    assert [link for link in links if not (ROOT / "pipelines" / method / link.partition("#")[0]).exists()] == []


def test_what_people_type_is_called_etude_everywhere() -> None:
    pattern = r"python3? -m (commands|flows|evidence)\b"
    files = [":!CHANGELOG.md", ":!tests/test_readme.py"]
    command = ["git", "grep", "-nIE", pattern, "--", *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")  # 1: nothing found
