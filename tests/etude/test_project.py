"""All params files, checked together."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from etude.core.errors import ParamsError
from etude.project import check
from tests.shipped import ROOT, held, replace_in


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("params.yaml", "pipelines/lora/params.yaml", "pipelines/textual_inversion/params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(held(name), tmp_path / name)
    return tmp_path


def add(project: Path, method: str) -> Path:
    """The params file of one method more."""
    path = Path("pipelines", method, "params.yaml")
    (project / path).parent.mkdir()
    return Path(shutil.copy(held(path.as_posix()), project / path))


def test_the_faults_of_all_files_are_told_at_once_each_with_what_to_do(project: Path) -> None:
    replace_in(project / "pipelines/lora/params.yaml", "set: concept", "set: conzept")
    replace_in(project / "params.yaml", "axis: seed", "axis: sede")
    with pytest.raises(ParamsError) as caught:
        check(project)
    faults = str(caught.value).splitlines()
    assert len(faults) == 3  # the grid's fault is one for each of the two methods
    assert all("Next: " in fault for fault in faults)
    assert "there is no image set `conzept`, did you mean `concept`?" in str(caught.value)
    assert "there is no axis `sede`, did you mean `seed`?" in str(caught.value)


def test_a_set_without_prompts_is_told(project: Path) -> None:
    replace_in(project / "params.yaml", "  concept:\n    - ", "  other:\n    - ")
    with pytest.raises(ParamsError, match=r"no prompts for the image set `concept`, which lora learns\. Next: add"):
        check(project)


def test_a_build_that_would_pass_over_a_change_is_told(project: Path) -> None:
    graph = project / "pipelines/lora/dvc.yaml"
    shutil.copy(ROOT / "pipelines/lora/dvc.yaml", graph)
    check(project)
    replace_in(graph, "kind, rank, alpha", "kind, alpha")
    with pytest.raises(
        ParamsError, match=r"lora/dvc\.yaml: the build stage does not track `rank`\. Next: add this key"
    ):
        check(project)


def test_a_method_that_reads_one_chunk_is_told_where_texts_have_more(project: Path) -> None:
    add(project, "null_text_inversion")
    check(project, ["null_text_inversion"])
    replace_in(project / "params.yaml", "chunks: 1 ", "chunks: 2 ")
    check(project)
    with pytest.raises(
        ParamsError, match=r"null_text_inversion.*reads 75 tokens without weights.*Next: write `text.chunks: 1`"
    ):
        check(project, ["null_text_inversion"])


def test_a_weight_that_is_no_number_is_told_before_anything_is_drawn(project: Path) -> None:
    replace_in(project / "params.yaml", 'negative: ""', 'negative: "(mud:1.2.3)"')
    replace_in(project / "pipelines/lora/params.yaml", 'caption: "[caption]"', 'caption: "([name]:.) [caption]"')
    check(project)
    replace_in(project / "params.yaml", "emphasis: none", "emphasis: a1111")
    with pytest.raises(ParamsError) as caught:
        check(project)
    first, second = str(caught.value).splitlines()
    assert "params.yaml: the text `(mud:1.2.3)` has the weight `1.2.3`, which is no number. Next: write a num" in first
    assert "lora/params.yaml: the text `([name]:.) [caption]` has the weight `.`, which is no number" in second


def test_a_name_that_brackets_make_another_text_is_refused_where_they_weigh(project: Path) -> None:
    name = re.search(r"^name: .*$", (project / "pipelines/lora/params.yaml").read_text(), re.MULTILINE)
    assert name
    replace_in(project / "pipelines/lora/params.yaml", name[0], "name: saber_(fate)")
    check(project)
    replace_in(project / "params.yaml", "emphasis: none", "emphasis: kohya")
    with pytest.raises(ParamsError, match=r"`name` is 'saber_\(fate\)', .*Next: choose a word without them"):
        check(project)


def test_a_word_of_a_concept_that_brackets_make_another_text_is_refused_where_they_weigh(project: Path) -> None:
    file = add(project, "custom_diffusion")
    replace_in(file, 'word: "<owl>"', 'word: "<owl>(2)"')
    replace_in(file, 'name: "<owl> eagle"', 'name: "<owl>(2) eagle"')
    replace_in(project / "params.yaml", "emphasis: none", "emphasis: a1111")
    with pytest.raises(ParamsError, match=r"`concepts.concept.word` is '<owl>\(2\)', and brackets"):
        check(project, ["custom_diffusion"])


def test_brackets_in_tags_are_escaped_where_brackets_weigh(project: Path) -> None:
    replace_in(project / "params.yaml", "    clip: models/miniature/clip\n", "    wd14: models/miniature/clip\n")
    check(project)
    replace_in(project / "params.yaml", "emphasis: none", "emphasis: a1111")
    with pytest.raises(ParamsError, match=r"brackets in tags of wd14, .* Next: write `escape: a1111`"):
        check(project)
    replace_in(project / "params.yaml", "escape: none", "escape: a1111")
    check(project)
