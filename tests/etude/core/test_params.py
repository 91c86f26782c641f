from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, create_model

from etude.core.errors import ParamsError
from etude.core.params import (
    Count,
    Learned,
    Location,
    MethodParams,
    Rate,
    Scale,
    Schema,
    Seed,
    SetName,
    Steps,
    Words,
    classed,
    image_folder,
    load,
    nearest,
    pick,
    read_yaml,
    refuse_twice,
    validate,
)


class Inner(Schema):
    rank: int = Field(ge=1)
    alpha: float


class Outer(Schema):
    seed: int
    inner: Inner


class Worded(Schema):
    texts: list[Annotated[str, Field(pattern="x")]] = Field(min_length=1, description="texts with an x")
    plain: str = Field(pattern="y")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_misspelt_key_is_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = write(tmp_path / "params.yaml", "seed: 1\ninner: {rnk: 8, alpha: 1.0}\n")
    with pytest.raises(ParamsError) as caught:
        load(file, Outer)
    assert "params.yaml" in str(caught.value)
    assert "`inner.rnk`, did you mean `rank`?" in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "params.yaml", "sed: 1\ninner: {rank: 0, alpha: x}\n")
    with pytest.raises(ParamsError) as caught:
        load(file, Outer)
    for part in ("`seed` is missing", "`sed`", "`inner.rank`", "`inner.alpha`", "4 faults"):
        assert part in str(caught.value)


def test_a_text_that_does_not_fit_is_told_what_it_should_be_and_an_empty_list_how_long(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        load(write(tmp_path / "p.yaml", "texts: [ax, b]\nplain: z\n"), Worded)
    assert "`texts.1` is 'b', which does not fit `x`: texts with an x" in str(caught.value)
    assert "`plain` string should match pattern 'y', not 'z'" in str(caught.value)
    with pytest.raises(ParamsError, match=r"`texts` needs 1 or more, not \[\]"):
        load(write(tmp_path / "p.yaml", "texts: []\nplain: y\n"), Worded)


def test_a_text_is_no_number_and_a_number_no_text(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="rank"):
        load(write(tmp_path / "p.yaml", 'seed: 1\ninner: {rank: "8", alpha: 1.0}\n'), Outer)
    with pytest.raises(ParamsError, match="set"):
        load(write(tmp_path / "p.yaml", "set: 3\nname: otter\n"), MethodParams)


def test_scientific_notation_is_a_number_as_dvc_reads_it(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path / "p.yaml", "rate: 1e-4\n")) == {"rate": 1e-4}


def test_a_stage_view_ignores_the_keys_of_others(tmp_path: Path) -> None:
    class StageParams(Schema):
        seed: int

    assert pick(write(tmp_path / "p.yaml", "seed: 3\nother: {}\n"), StageParams).seed == 3


@pytest.mark.parametrize("text", ["a: [1\n", "- 1\n", "a: 1\na: 2\n", ""])
def test_broken_yaml_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParamsError, match=r"p\.yaml"):
        read_yaml(write(tmp_path / "p.yaml", text))


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="git checkout"):
        read_yaml(tmp_path / "p.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes("name: café\n".encode("latin-1"))
    with pytest.raises(ParamsError, match=r"p\.yaml: is not text in UTF-8 \(byte 9\)"):
        read_yaml(tmp_path / "p.yaml")


def test_a_mark_at_the_start_and_the_line_ends_of_windows_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\r\nname: no\r\n")
    assert read_yaml(tmp_path / "p.yaml") == {"seed": 3, "name": "no"}


class Renamed(Schema):
    former_keys: ClassVar = {"rnk": "rank"}
    former_values: ClassVar = {"kind": {"old": "new"}}

    rank: int
    kind: Literal["new", "other"]


class Around(Schema):
    inner: Renamed


def test_a_former_key_or_value_is_answered_with_its_new_name_and_the_command_that_writes_it(tmp_path: Path) -> None:
    file = write(tmp_path / "params.yaml", "inner: {rnk: 8, kind: old}\n")
    with pytest.raises(ParamsError) as caught:
        load(file, Around)
    said = str(caught.value)
    assert "2 faults: `inner.kind: old` is called `new` now; `inner.rnk` is called `inner.rank` now" in said
    assert "missing" not in said
    assert "Next: run `etude migrate`, which writes the new names." in said


def test_what_else_is_wrong_is_told_beside_a_former_name(tmp_path: Path) -> None:
    file = write(tmp_path / "params.yaml", "inner: {rnk: 8, kind: odd}\n")
    with pytest.raises(ParamsError, match=r"`inner.rank` now; `inner.kind` .*'odd'.*and correct the rest"):
        load(file, Around)


class Named(Schema):
    word: str


class Grown(Schema):
    former_keys: ClassVar = {"name": "name.word"}
    gone_keys: ClassVar = {"old": 0}
    refused_keys: ClassVar = {"steps": "this method learns nothing"}
    added_keys: ClassVar = {"rank": 4}

    name: Named
    rank: int


@pytest.mark.parametrize(
    ("data", "told", "action"),
    [
        ({"name": {"word": "a"}}, "`rank` is missing", "run `etude migrate`, which adds the new keys."),
        ({"rank": 1, "name": "a"}, "`name` is called `name.word` now", "which writes the new names."),
        ({"name": "a"}, "2 faults: `name` is", "which writes the new names and adds the new keys."),
        ({"name": {"word": 3}}, "`name.word`", "which adds the new keys, and correct the rest."),
        ({"rank": 1, "name": {"word": "a"}, "old": 3}, "`old` is gone", "which writes the new names."),
        ({"rank": 1, "name": 3, "x": 1}, "`name.word` now; unknown key `x`", "names, and correct the rest."),
        ({"rank": 1, "name": {"word": "a"}, "steps": 3}, "no `steps` here: this method learns nothing", "comments"),
        ({"rank": 1, "name": {}}, "`name.word` is missing", "Next: correct the file; its comments list the choices."),
    ],
)
def test_a_file_of_an_earlier_version_is_answered_with_what_migrate_does_and_what_is_left(
    data: dict[str, Any], told: str, action: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        validate(data, Grown, "p.yaml")
    assert told in str(caught.value)
    assert action in str(caught.value)


def test_twenty_faults_are_listed_and_what_is_no_block_is_the_whole_file() -> None:
    values = create_model("Many", __base__=Schema, values=(list[int], ...))
    for count in (20, 21):
        with pytest.raises(ParamsError) as caught:
            validate({"values": ["x"] * count}, values, "p.yaml")
        assert str(caught.value).count("`values.") == 20
        assert ("; 1 more. Next" in str(caught.value)) == (count == 21)
    with pytest.raises(ParamsError, match=r"^p\.yaml: `\(whole file\)` input should be"):
        validate([], values, "p.yaml")  # type: ignore[arg-type]
    with pytest.raises(ParamsError, match="`name` needs 1 or more, not ''"):
        validate({"set": "owl", "name": "", "trigger": True}, Learned, "p.yaml")


def test_what_is_learned_without_a_trigger_has_no_word_in_prompts() -> None:
    own = {"set": "concept", "name": "otter", "export": "best"}
    assert MethodParams(trigger=True, **own).word == "otter"
    assert MethodParams(trigger=False, **own).word == ""


def test_a_file_that_is_read_twice_gives_two_values_and_an_edited_one_another(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a: {b: [1, 2]}\n", encoding="utf-8")
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    first = read_yaml(file)
    first["a"]["b"].append(3)
    assert read_yaml(file) == {"a": {"b": [1, 2]}}
    file.write_text("a: {b: [1, 9]}\n", encoding="utf-8")
    os.utime(file, ns=times)
    assert read_yaml(file) == {"a": {"b": [1, 9]}}


@pytest.mark.parametrize(
    ("kind", "allowed", "refused"),
    [
        (Seed, (0, 9223372036854775807), (-1, 9223372036854775808)),
        (Steps, (1, 10_000_000), (0, 10_000_001)),
        (Count, (1, 10_000), (0, 10_001)),
        (Rate, (1e-30, 100.0), (0.0, 100.001)),
        (Scale, (0.0, 100.0), (-0.001, 100.001)),
        (Words, ("a", " a\n"), ("", " \n")),
        (SetName, ("a", "o" + 63 * "1"), ("", "1o", "O", "o-o", "o" + 64 * "1")),
        (
            Location,
            ("a", "/data/a b", "../a", "a/../b"),
            ("", " a", "a ", "~/a", "-a", ".", "..", "../..", "/", "a/.."),
        ),
    ],
    ids=("seed", "steps", "count", "rate", "scale", "words", "set name", "location"),
)
def test_a_value_is_allowed_up_to_its_bounds_and_refused_beyond(
    kind: Any, allowed: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    model = create_model("One", __base__=Schema, value=(kind, ...))
    for value in allowed:
        assert validate({"value": value}, model, "p.yaml").model_dump() == {"value": value}
    for value in refused:
        with pytest.raises(ParamsError, match="value"):
            validate({"value": value}, model, "p.yaml")


@pytest.mark.parametrize(("name", "fits"), [("a", True), ("my owl", True), ("a" * 64, True), ("a" * 65, False)])
def test_what_is_learned_has_a_name_of_one_to_64_characters(name: str, fits: bool) -> None:
    data = {"set": "owl", "name": name, "trigger": True}
    if fits:
        assert validate(data, Learned, "p.yaml").word == name
    else:
        with pytest.raises(ParamsError, match="`name` string should have at most 64 characters"):
            validate(data, Learned, "p.yaml")


def test_a_schema_converts_nothing_changes_nothing_and_has_no_infinity() -> None:
    made = validate({"rank": 8, "alpha": 1}, Inner, "p.yaml")
    for other in ({"rank": 8.0, "alpha": 1}, {"rank": True, "alpha": 1}, {"rank": 8, "alpha": float("inf")}):
        with pytest.raises(ParamsError):
            validate(other, Inner, "p.yaml")
    with pytest.raises(ValueError, match="frozen"):
        made.rank = 9


@pytest.mark.parametrize(
    ("text", "before", "kind", "after"),
    [
        ("a photo of an owl", "owl", "dog", "a photo of a dog"),
        ("a photo of a dog", "dog", "Owl", "a photo of an Owl"),
        ("an owl, a owl's nest", "owl", "eagle", "an eagle, an eagle's nest"),
        ("owls, a barnowl and owl", "owl", "dog", "owls, a barnowl and dog"),
        ("a cat", "owl", "eagle", "a cat"),
        ("a cat", "", "eagle", "a cat"),
    ],
)
def test_another_class_takes_the_place_of_the_word_with_its_article(
    text: str, before: str, kind: str, after: str
) -> None:
    assert classed(text, before, kind) == after


def test_a_similar_name_is_suggested_and_otherwise_all_are_listed() -> None:
    assert nearest("rnk", ["rank", "alpha"]) == ", did you mean `rank`?"
    assert nearest("zzz", ["rank", "alpha"]) == " (known: alpha, rank)"
    assert nearest("abcd", ["abxy"]) == ", did you mean `abxy`?"  # half of it is the same
    assert nearest("abcde", ["abxyz"]) == " (known: abxyz)"
    assert nearest("zzz", []) == ""


def test_a_value_that_is_in_a_list_twice_is_named_with_its_list() -> None:
    refuse_twice(prompts=["a", "b"], seeds=[1, 2])
    with pytest.raises(ValueError, match=r"`seeds` holds 2 twice"):
        refuse_twice(prompts=["a", "b"], seeds=[1, 2, 2])


def test_the_folder_of_a_set_is_that_of_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "params.yaml", "sets: {owls: data/owls, other: 3}\n")
    assert image_folder("owls") == Path("data/owls")
    for name, said in (("owl", "did you mean `owls`"), ("other", "has no folder `other`")):
        with pytest.raises(ParamsError, match=said):
            image_folder(name)
    write(tmp_path / "params.yaml", "sets: 3\n")
    with pytest.raises(ParamsError, match="has no folder `owls`"):
        image_folder("owls")
