"""`migrate`: params files of an earlier version get the present names and the new keys, and keep all else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import Field
from ruamel.yaml import YAML

from commands.adding import add_to
from commands.moving import move_in
from commands.removing import remove_from
from commands.renaming import rename_in
from etude.captions.settings import Caption
from etude.core.errors import ParamsError
from etude.core.method import load_method
from etude.core.params import Schema, load, models_at, new_keys, read_yaml, validate
from etude.project import Project, schemas_of
from tests.shipped import copy_project, held, run_module

NOW = held("params.yaml").read_text(encoding="utf-8")
FORMER = {
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


def released() -> str:
    """params.yaml of the last release, whose captions had no blocks."""
    before, _, behind = former().partition("caption:")
    _, _, behind = behind.partition("\n\n")
    return f"{before}{CAPTION.strip()}\n\n{behind}"


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_bytes(text.encode())
    return path


def test_only_the_names_change_and_comments_stay_in_their_columns(tmp_path: Path) -> None:
    text, changes = rename_in(write(tmp_path, former()), "params.yaml", Project)
    assert text == NOW.replace("    metric: image_similarity\n", "    metric: 'heldout_similarity' # the rule\n")
    assert changes == [
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
        (
            "evaluate: {truths: a, heldout: b}",
            "holds `evaluate.truths` and its new name `evaluate.heldout`. Next: delete",
        ),
        (
            "other: &one {truths: a}\nevaluate:\n  <<: *one\n",
            r"evaluate.truths → .* alias .* Next: rename the key by hand",
        ),
        ("m: &m truth_similarity\nevaluate: {best: {metric: *m}}\n", "alias .* Next: rename the key by hand"),
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


RELEASED: dict[str, list[str]] = json.loads(Path("tests/released_keys.json").read_text(encoding="utf-8"))
"""The keys of each params file in the last release. When another one is made, it is written again."""


BLOCK = re.compile(r"( +)optimizer:.*\n +kind:(.*\n)(?: +(?:betas|eps):.*\n)* +(weight_decay:.*\n)")

LISTED = re.compile(r"  prompts: \[(.*)\](?= +# a row)")  # of previews: there was one prompt


class Block(Schema):
    added_keys: ClassVar = {"new": 1, "word": "adamw"}

    first: float
    new: int = Field(description="what is new")
    lines: list[int]
    word: str


class Whole(Schema):
    block: Block


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "block:\n  first: 1.0  # one\n\n  # more\n  lines:\n    - 1\n",
            "block:\n  first: 1.0  # one\n  new: 1      # what is new\n\n  # more\n  lines:\n    - 1\n  word: adamw\n",
        ),
        ("block: {first: 1.0, lines: []}  # end", "block: {new: 1, word: adamw, first: 1.0, lines: []}  # end"),
        ("block:\n  new: 2\n  first: 1.0\n  lines: []", "block:\n  new: 2\n  first: 1.0\n  lines: []\n  word: adamw"),
        ("block:\n  lines:\n  - 1\n  new: 2", "block:\n  lines:\n  - 1\n  word: adamw\n  new: 2"),
        ("block:\n  new: 1\n  word: sgd", "block:\n  new: 1\n  word: sgd"),
        ("block:\r\n  new: 2\r\n", "block:\r\n  new: 2\r\n  word: adamw\r\n"),
    ],
)
def test_a_new_key_comes_behind_its_neighbour_and_every_other_character_stays(before: str, after: str) -> None:
    text, changes = add_to(before, "params.yaml", Whole)
    assert text == after
    assert len(changes) == after.count("new: 1") + after.count("adamw") - before.count("new: 1")
    assert add_to(text, "params.yaml", Whole) == (text, [])


class Small(Schema):
    added_keys: ClassVar = {"eps": 1e-8}

    first: float
    eps: float


def test_a_small_new_number_is_one_for_readers_of_yaml_1_1_too() -> None:
    text, _ = add_to("first: 1.0", "params.yaml", Small)
    assert yaml.safe_load(text)["eps"] == 1e-8


def test_a_block_that_an_alias_writes_is_not_added_to() -> None:
    with pytest.raises(
        ParamsError, match="has no `block.new: 1`, and an alias writes its block.* Next: add this key by hand"
    ):
        add_to("other: &one {first: 1.0}\nblock:\n  <<: *one\n", "params.yaml", Whole)


CAPTION = """
caption:
  # where a caption comes from
  file_names: true
  captioner: clip    # or none
  clip: models/clip  # the folder of a CLIP

  words: words.txt
  # how a word is read
  templates: ["a {}"]
  top: 1
  styles: []
  backgrounds:       # the last words
  - on red

  - on blue
  # around it
  prefix: ""
  suffix: ""
"""
CAPTION_NOW = """
caption:
  # where a caption comes from
  existing: replace  # captions that exist: they replace the captioners', stand before or behind them, or are ignored
  file_names: true
  captioners:        # what describes a picture that has no caption, in this order: kind: its model; {}: nothing does
    clip: models/clip  # the folder of a CLIP

  words:  # the words that clip chooses among
    file: words.txt
    # how a word is read
    templates: ["a {}"]
    top: 1
    styles: []
    backgrounds:     # the last words
    - on red

    - on blue
NEW  # around it
  prefix: ""
  suffix: ""
"""


class Captioned(Schema):
    caption: Caption


def test_the_captioners_of_an_earlier_version_get_blocks_of_their_own() -> None:
    text, moved = move_in(CAPTION, "params.yaml", Captioned)
    text, removed = remove_from(text, "params.yaml", Captioned)
    text, added = add_to(text, "params.yaml", Captioned)
    new = re.search(r"  tags:.*\n(?:    .*\n)+  sentence:.*\n(?:    .*\n)+", text)
    assert new
    assert '    categories: ["general", "character"]  # the kinds of tags that are named\n' in new[0]
    assert text.replace(new[0], "NEW") == CAPTION_NOW
    assert (len(moved), removed, len(added)) == (6, ["params.yaml: caption.captioner: clip is gone"], 3)
    validate(YAML(typ="safe", pure=True).load(text), Captioned, "params.yaml")


def test_a_key_that_is_gone_is_removed_only_where_nothing_is_lost() -> None:
    with pytest.raises(ParamsError, match=r"`caption.captioner: none` is gone, and only `clip` .* Next: see what repl"):
        remove_from(CAPTION.replace("captioner: clip ", "captioner: none "), "params.yaml", Captioned)
    with pytest.raises(ParamsError, match=r"`caption.captioner` is gone.* Next: run `etude migrate`"):
        validate(YAML(typ="safe", pure=True).load(CAPTION), Captioned, "params.yaml")


def of_the_release(file: str) -> str:
    """The shipped params file without the lines of keys that the last release lacked."""
    values, released = read_yaml(held(file)), RELEASED[file]
    new = {key for key in dotted(values) if key not in released}
    text = BLOCK.sub(r"\1optimizer:   \2\1\3", held(file).read_text(encoding="utf-8"))
    text = LISTED.sub(r"  prompt: \1", text)
    for name in new - {key for key in new if "." in key}:  # with the lines of its block
        text = re.sub(rf"^{name}:.*\n(?: .*\n)*", "", text, flags=re.MULTILINE)
    for name in {key.rpartition(".")[2] for key in new} - {key.rpartition(".")[2] for key in released}:
        text = "".join(line for line in text.splitlines(keepends=True) if not line.strip().startswith(f"{name}:"))
    return text


def dotted(values: Any, before: str = "") -> list[str]:
    keys = []
    for key, value in values.items() if isinstance(values, dict) else ():
        keys += [f"{before}{key}", *dotted(value, f"{before}{key}.")]
    return keys


@pytest.mark.parametrize("file", [file for file in RELEASED if file != "params.yaml"])
def test_a_params_file_of_the_last_release_becomes_the_shipped_one(tmp_path: Path, file: str) -> None:
    schema = load_method(Path(file).parent.name).Params
    text, renamed = rename_in(write(tmp_path, of_the_release(file)), file, schema)
    text, moved = move_in(text, file, schema)
    text, added = add_to(text, file, schema)
    data = YAML(typ="safe").load(text)
    assert validate(data, schema, file) == load(held(file), schema)
    new = set(dotted(read_yaml(held(file)))) - set(RELEASED[file])
    whole = {key for key in new if key.rpartition(".")[0] not in new}  # a block is added as one
    assert len(moved + added) == len(whole - {"preview.prompts"})
    assert len(renamed) == 2 * ("preview.prompts" in new)  # its name, and its value as a list


def test_every_key_that_the_last_release_lacked_is_renamed_or_added() -> None:
    for path, schema in schemas_of(Path()):
        for key in set(dotted(read_yaml(held(path.as_posix())))) - set(RELEASED.get(path.as_posix(), [])):
            *block, name = key.split(".")
            for model in models_at(schema, tuple(block)):
                assert issubclass(model, Schema)
                known = {*new_keys(model), *model.former_keys.values()}
                assert name in known or key in moved(schema) or in_a_new_block(schema, block), f"{path}: {key}"


def in_a_new_block(schema: type[Schema], block: list[str]) -> bool:
    """Whether a block, or one around it, is new."""
    for depth, name in enumerate(block):
        for model in models_at(schema, tuple(block[:depth])):
            if issubclass(model, Schema) and name in new_keys(model):
                return True
    return False


def moved(schema: type[Schema], before: str = "") -> set[str]:
    """The keys of a schema, and of the blocks below, that were moved into a block, and those blocks."""
    keys = {before + key for key in schema.former_keys.values() if "." in key}
    keys |= {key.rpartition(".")[0] for key in keys}
    for name in schema.model_fields:
        for model in models_at(schema, (name,)):
            keys |= moved(model, f"{before}{name}.") if model is not schema and issubclass(model, Schema) else set()
    return keys


class Several(Schema):
    former_keys: ClassVar = {"prompt": "prompts"}
    listed_keys: ClassVar = ("prompts",)

    prompts: list[str]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('prompt: "[name] # 1"   # one\n', 'prompts: ["[name] # 1"] # one\n'),
        ("prompt: a cat, sad   # one\n", 'prompts: ["a cat, sad"] # one\n'),
        ("{prompt: 'a: b'}", '{prompts: ["a: b"]}'),
        ("prompts: ['a']", "prompts: ['a']"),
    ],
)
def test_a_value_whose_key_has_a_list_now_becomes_its_only_item(tmp_path: Path, before: str, after: str) -> None:
    text, changes = rename_in(write(tmp_path, before), "params.yaml", Several)
    assert text == after
    assert len(changes) == 2 * (before != after)


def test_a_value_of_several_lines_is_not_made_a_list(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="or is written in another way. Next: rename the key by hand"):
        rename_in(write(tmp_path, "prompt: |\n  a\n  b\n"), "params.yaml", Several)


class Plan(Schema):
    former_keys: ClassVar = {"block": "block.first", "pull": "block.word"}

    steps: int
    block: Block = Field(description="what is moved")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "plan:\n  block: 1.0        # one\n  steps: 2  # two\n  'pull' : 'sgd'  # how\n",
            "plan:\n  block:            # what is moved\n    first: 1.0      # one\n    word: 'sgd'  # how\n"
            "  steps: 2  # two\n",
        ),
        ("plan:\n  pull: sgd\n  block: 1.0", "plan:\n  block:  # what is moved\n    first: 1.0\n    word: sgd"),
        ("plan:\r\n  block: 1.0\r\n", "plan:\r\n  block:  # what is moved\r\n    first: 1.0\r\n"),
        ("plan:\n  block: {first: 1.0}", "plan:\n  block: {first: 1.0}"),
    ],
)
def test_a_key_is_moved_into_its_block_with_its_comment(before: str, after: str) -> None:
    class Moving(Schema):
        plan: Plan

    text, changes = move_in(before, "params.yaml", Moving)
    assert text == after
    assert ("params.yaml: plan.block → plan.block.first" in changes) == (before != after)
    assert move_in(text, "params.yaml", Moving) == (text, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "plan: {block: 1.0}",
            "plan.block → plan.block.first: .* not on a line of its own .* Next: move the key by hand",
        ),
        ("plan:\n  block:\n    1.0", "not on a line of its own"),
        ("plan:\n  pull: sgd\n  block: {first: 1.0}", "exists already. Next: move `pull` into it by hand"),
    ],
)
def test_a_key_that_cannot_be_moved_is_refused_by_its_name(text: str, said: str) -> None:
    class Moving(Schema):
        plan: Plan

    with pytest.raises(ParamsError, match=said):
        move_in(text, "params.yaml", Moving)


def test_keys_that_were_moved_are_told_by_their_present_names() -> None:
    values = read_yaml(held("pipelines/lora/params.yaml"))
    values["training"] |= {"optimizer": "adamw8bit", "weight_decay": 0.01}
    with pytest.raises(ParamsError, match="run `etude migrate`, which writes the new names.$") as told:
        validate(values, load_method("lora").Params, "params.yaml")
    for key in ("optimizer.kind", "optimizer.weight_decay"):
        assert f"is called `training.{key}` now" in str(told.value)


def test_a_missing_new_key_is_told_with_the_command_that_adds_it(tmp_path: Path) -> None:
    schema = load_method("lora").Params
    path = write(tmp_path, of_the_release("pipelines/lora/params.yaml"))
    with pytest.raises(
        ParamsError,
        match=r"`base_precision` is missing.* Next: run `etude migrate`, which .* and adds the new keys\.",
    ):
        load(path, schema)
    path.write_text(path.read_text(encoding="utf-8").replace("rank:", "rang:"), encoding="utf-8")
    with pytest.raises(ParamsError, match="adds the new keys, and correct the rest"):
        load(path, schema)


def test_the_command_adds_the_new_keys_of_every_file(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    for file in RELEASED:
        (project / file).write_text(of_the_release(file) if file != "params.yaml" else released(), encoding="utf-8")
    refused = run_module(project, "commands.check")
    assert "etude migrate" in refused.stderr
    done = run_module(project, "commands.migrate")
    assert "pipelines/lora/params.yaml: training.ema_every: 1, which is new\n" in done.stdout
    for path, schema in schemas_of(project):
        load(path, schema)
