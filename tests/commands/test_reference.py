"""The reference of all parameters: complete, as the code gives it, and linked to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands import parameters
from commands.parameters import blocks, known_schemas, page
from etude.core.errors import ParamsError
from etude.project import params_files
from tests.shipped import ROOT, held

FILES = [*(file.relative_to(ROOT).as_posix() for file in params_files(ROOT)), "flows/params.yaml"]
PAGE = ROOT / parameters.PAGE


def test_the_reference_in_git_is_what_the_code_gives() -> None:
    made = page({name: held(name) for name in FILES}, ROOT / "presets")
    assert PAGE.read_text(encoding="utf-8") == made, "run `make schemas`"


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_a_schema_has_a_row_with_a_meaning(name: str) -> None:
    schema = known_schemas()[name]
    shown = {
        key.path: key.meaning for block in blocks(name, held(name), schema.model_json_schema()) for key in block.keys
    }
    assert all(shown.values())
    firsts = {path.partition(".")[0] for path in shown}
    assert firsts == set(schema.model_fields)


def test_a_key_without_a_comment_is_refused_by_name(tmp_path: Path) -> None:
    text = re.sub(r"^(rank: 16).*$", r"\1", held("pipelines/lora/params.yaml").read_text(), flags=re.MULTILINE)
    text = re.sub(r"^alpha: .*$", "alpha: 16.0  # first\n             # second", text, flags=re.MULTILINE)
    (tmp_path / "params.yaml").write_text(text)
    name = "pipelines/lora/params.yaml"
    with pytest.raises(ParamsError, match=r"pipelines/lora/params.yaml: `rank` has no comment"):
        blocks(name, tmp_path / "params.yaml", known_schemas()[name].model_json_schema())
    (tmp_path / "params.yaml").write_text(text.replace("rank: 16", "# above it\nrank: 16"))
    found = blocks(name, tmp_path / "params.yaml", known_schemas()[name].model_json_schema())
    meanings = {key.path: key.meaning for key in found[0].keys}
    assert (meanings["rank"], meanings["alpha"]) == ("above it", "first second")


def test_type_bounds_and_the_values_of_each_preset_are_in_the_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if 'id="lora.training.steps"' in line)
    assert row.endswith("| 1 ≤ integer ≤ 10,000,000 | miniature: `240`<br>sd15, sd21, sdxl: `1600` |")
    row = next(line for line in text.splitlines() if 'id="params.device"' in line)
    assert row.endswith("| `auto`, `cpu`, `cuda` | `auto` |")


def test_anchors_are_unique_and_links_inside_the_page_lead_to_one() -> None:
    text = PAGE.read_text(encoding="utf-8")
    anchors = re.findall(r'<a id="([^"]+)">', text)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)


def test_tables_have_four_columns_and_no_open_tags() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line
            outside = re.sub(r"`[^`]*`", "", line)
            assert set(re.findall(r"<([^ >]+)", outside)) <= {"a", "/a", "br"}, line
