"""`migrate`: params files of an earlier version get the present names, and keep all else."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.renaming import rename_in
from etude.core.errors import ParamsError
from etude.core.params import load, read_yaml
from etude.project import Project
from tests.shipped import copy_project, held, run_module

NOW = held("params.yaml").read_text(encoding="utf-8")
FORMER = {
    "  model: models/miniature/clip\n": "  clip: models/miniature/clip\n",
    "  heldout: data/samples ": "  truths: data/samples  ",
    "  classifier: models/miniature/judge ": "  judge: models/miniature/judge      ",
    "  classify: true ": "  judging: true  ",
    "    metric: image_similarity\n": "    metric: 'truth_similarity' # the rule\n",
}


def former(text: str = NOW) -> str:
    """params.yaml as it was before the names changed."""
    for now, then in FORMER.items():
        assert now in text
        text = text.replace(now, then)
    return text


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_bytes(text.encode())
    return path


def test_only_the_names_change_and_comments_stay_in_their_columns(tmp_path: Path) -> None:
    text, changes = rename_in(write(tmp_path, former()), "params.yaml", Project)
    assert text == NOW.replace("    metric: image_similarity\n", "    metric: 'heldout_similarity' # the rule\n")
    assert changes == [
        "params.yaml: caption.clip → caption.model",
        "params.yaml: evaluate.truths → evaluate.heldout",
        "params.yaml: evaluate.judge → evaluate.classifier",
        "params.yaml: evaluate.judging → evaluate.classify",
        "params.yaml: evaluate.best.metric: truth_similarity → heldout_similarity",
    ]


def test_what_comes_out_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    text, _ = rename_in(write(tmp_path, former()), "params.yaml", Project)
    path = write(tmp_path, text)
    assert load(path, Project).evaluate.heldout == "data/samples"
    assert rename_in(path, "params.yaml", Project) == (text, [])


@pytest.mark.parametrize(
    ("block", "renamed"),
    [
        ('{"truths": a, judge : b, judging: true}', '{"heldout": a, classifier : b, classify: true}'),
        ("{best: {metric: truth_similarity}}", "{best: {metric: heldout_similarity}}"),
        ("\r\n  truths: a  # truths\r\n", "\r\n  heldout: a # truths\r\n"),
        ('{truths: "a  # b"}  # c', '{heldout: "a  # b"}  # c'),
        ("{name: truths, truths_too: judge}", "{name: truths, truths_too: judge}"),  # no former key, no former value
    ],
)
def test_names_are_found_in_whatever_way_they_are_written(tmp_path: Path, block: str, renamed: str) -> None:
    text, _ = rename_in(write(tmp_path, f"evaluate: {block}"), "params.yaml", Project)
    assert text == f"evaluate: {renamed}"


def test_a_block_that_an_alias_repeats_is_renamed_once(tmp_path: Path) -> None:
    path = write(tmp_path, "other: &one {truths: a}\nevaluate: *one\n")
    text, changes = rename_in(path, "params.yaml", Project)
    assert (text, len(changes)) == ("other: &one {heldout: a}\nevaluate: *one\n", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("evaluate: {truths: a, heldout: b}", "holds `evaluate.truths` and `evaluate.heldout`. Next: delete"),
        ("other: &one {truths: a}\nevaluate:\n  <<: *one\n", r"evaluate.truths → .* alias .* Next: rename it by hand"),
        ("m: &m truth_similarity\nevaluate: {best: {metric: *m}}\n", "alias .* Next: rename it by hand"),
        ("evaluate: {truths: a", "params.yaml:.* is not YAML"),
    ],
)
def test_what_cannot_be_renamed_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        rename_in(write(tmp_path, text), "params.yaml", Project)


def test_the_command_tells_each_change_writes_it_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    path = write(project, former())
    (project / "data/samples/owl-truth").mkdir(parents=True)
    told = run_module(project, "commands.migrate", "--dry")
    assert told.returncode == 0, told.stderr
    assert "params.yaml: evaluate.judge → evaluate.classifier\n" in told.stdout
    assert "nothing is changed" in told.stdout
    assert path.read_text(encoding="utf-8") == former()

    assert run_module(project, "commands.migrate").returncode == 0
    assert read_yaml(path)["evaluate"]["best"]["metric"] == "heldout_similarity"
    again = run_module(project, "commands.migrate")
    assert "nothing to change" in again.stdout
    assert "owl-truth: is read as it is" in again.stdout
