"""Params files as they should not be: whatever is in them, the answer is their values or one EtudeError in one line."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.core import yaml
from etude.core.errors import EtudeError, ParamsError
from etude.core.method import load_method, method_names
from etude.core.params import Schema, read_yaml, validate
from etude.project import Project, check
from flows.settings import Settings
from tests.shipped import PARAMS, ROOT


def bomb(entry: str) -> str:
    """Nine blocks, each nine times in the next."""
    rows = ["a: &a {x: 1, y: 2}"]
    for last, name in zip("abcdefgh", "bcdefghi", strict=True):
        rows.append(f"{name}: &{name} {entry.format(','.join([f'*{last}'] * 9))}")
    return "\n".join(rows)


BROKEN = {
    "deep in brackets": "a: " + "[" * 3000 + "]" * 3000,
    "deep in braces": "a: " + "{a: " * 3000 + "1" + "}" * 3000,
    "deep in blocks": "".join(" " * n + "a:\n" for n in range(900)),
    "deep in lists": "a:\n" + "- " * 3000 + "x",
    "a long number": f"a: {'9' * 6000}",
    "a long hexadecimal number": f"a: 0x{'f' * 6000}",
    "a number above 64 bits": f"a: {2**64}",
    "no day": "a: 2001-13-45",
    "no time": "a: 2001-12-14t25:99:10Z",
    "no whole number": "a: !!int abc",
    "no number": "a: !!float abc",
    "no truth": "a: !!bool abc",
    "no character": 'a: "\\U00110000"',
    "half a character": 'a: "\\ud800"',
    "nothing in a text": 'a: "\\0"',
    "a tag of Python": "a: !!python/object/apply:os.system [ls]",
    "an unknown tag": "a: !foo x",
    "an unknown alias": "a: *b",
    "an alias in itself": "a: &a [*a]",
    "aliases of aliases": bomb("[{}]"),
    "merges of merges": bomb("{{<<: [{}]}}"),
    "a merge of a number": "a: {<<: 1}",
    "a key twice": "a: 1\na: 2",
    "a tab": "a:\n\tb: 1",
    "a zero byte": "a: \x00b",
    "a bell": "a: \x07",
    "two documents": "a: 1\n---\nb: 1",
    "a block as key": "? {a: b}\n: 1",
    "another YAML": "%YAML 3.0\n---\na: 1",
    "too many keys": "".join(f"k{n}: 1\n" for n in range(6000)),
    "too large": "#" * 500_001,
    "nothing": "",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_is_no_params_file_is_told_in_one_short_line_that_names_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ParamsError) as caught:
        read_yaml(file)
    said = str(caught.value)
    assert said.startswith(str(file))
    assert "Next: " in said
    assert "\n" not in said
    assert len(said) < len(str(file)) + 300
    said.encode()


@pytest.mark.parametrize("text", ["a: &x 1\nb: &x 2", "a: &x {b: 1}\nc: {<<: *x}", "\ufeffa: 1\r\n", "a: 1_000"])
def test_what_is_unusual_and_yaml_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8", newline="")
    assert "a" in read_yaml(tmp_path / "p.yaml")


def test_a_line_is_named_where_there_is_one(tmp_path: Path) -> None:
    for text in ("a: 1\nb: 2001-13-45\n", "a: 1\nb: \x00\n", 'a: 1\nb: "\\0"\n'):
        (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ParamsError, match=r"p\.yaml:2: is not YAML"):
            read_yaml(tmp_path / "p.yaml")


def test_a_folder_a_pipe_and_a_file_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(ParamsError, match="is a folder"):
        check(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ParamsError, match="is no file"):
        read_yaml(tmp_path / "pipe.yaml")
    with pytest.raises(ParamsError, match="gone.yaml: is missing. Next: restore it"):
        read_yaml(tmp_path / "gone.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ParamsError, match=r"loop\.yaml"):
        read_yaml(tmp_path / "loop.yaml")


def test_as_many_values_are_read_as_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "MOST", 6)
    (tmp_path / "a.yaml").write_text("a: [1, 2, 3]", encoding="utf-8")  # the mapping, its key, the list, its values
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2, 3]}
    for text in ("a: [1, 2, 3, 4]", "a: &b [1]\nc: *b", "a: {b: 1, c: 2}"):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ParamsError, match="contains more than 6 values"):
            read_yaml(tmp_path / "a.yaml")


def test_a_file_is_read_up_to_each_of_its_bounds_and_not_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "LARGEST_BLOCK", 3)
    deep = "a: " + 28 * "[" + "1" + 28 * "]"  # 28 lists in a mapping, and the value
    for text, more in (
        ("a: 1" + " " * (500_000 - 4), " "),
        (deep, deep.replace("1", "[1]")),
        ("a: 18446744073709551615", "a: 18446744073709551616"),
        ("a: 1\nb: 1\nc: 1", "a: 1\nb: 1\nc: 1\nd: 1"),
    ):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        assert "a" in read_yaml(tmp_path / "a.yaml")
        (tmp_path / "a.yaml").write_text(text + more if more == " " else more, encoding="utf-8")
        with pytest.raises(ParamsError, match=r"a\.yaml"):
            read_yaml(tmp_path / "a.yaml")


def test_a_long_value_is_shown_by_its_first_hundred_characters() -> None:
    assert yaml.shortened("x" * 100) == "x" * 100
    assert yaml.shortened("x" * 101) == "x" * 99 + "…"
    assert yaml.shortened("abcd", 3) == "ab…"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", 'found duplicate key "a"'),
        ("a: \x07", "special characters are not allowed"),
        ("a: *b", "found undefined alias 'b'"),
        ('a: "\\U00110000"', "chr"),
    ],
)
def test_the_reason_of_the_library_is_told(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ParamsError, match=rf"is not YAML \({reason}"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(("text", "line"), [("\n\x07", 2), ("\x07", 1), ("a: 1\nb: 1\n\x07", 3), ("a: 1\nb: [", 2)])
def test_the_line_of_a_fault_is_told(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ParamsError, match=rf"a\.yaml:{line}: is not YAML"):
        read_yaml(tmp_path / "a.yaml")


def test_a_thousand_faults_are_one_message_that_can_be_read() -> None:
    class Small(Schema):
        values: list[int]

    with pytest.raises(ParamsError) as caught:
        validate({"values": ["x" * 1000] * 1000}, Small, "params.yaml")
    assert "1000 faults" in str(caught.value)
    assert "980 more" in str(caught.value)
    assert len(str(caught.value)) < 5000


SCHEMAS: dict[str, type[Schema]] = {"params.yaml": Project, "flows/params.yaml": Settings}
SCHEMAS |= {f"pipelines/{name}/params.yaml": load_method(name).Params for name in method_names()}
# By lines: each is a value in YAML.
VALUES = """-1
0
1
1e9
1e-9
1e400
.nan
-.inf
null
true
""
" "
[]
{}
[[]]
[null, null]
{a: {}}
all
al
x
0x10
1_0
"1_0"
"../x"
"/"
"[name]"
"{}"
0-3
"0-1e999999999"
"1e999999999"
"1e999999999-5"
"9 9 9 9 9"
2001-01-01
!!binary eA==
&a
*a
?
- x
"\\n"
"\\r1,2"
"'"
'"'
18446744073709551615
9223372036854775808
"18446744073709551616"
3.5
"1:2:3"
"0-100000000000"
"4-1.5:x**9**9"
"1-2:rate**-rate**9999"
"0x800, 00x08, 99999x99999"
""".splitlines()


def mutated(text: str, chance: random.Random) -> str:
    """A line's value, a line, or some characters are others."""
    rows = text.splitlines(keepends=True)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(rows))
        key, colon, _ = rows[at].partition(":")
        kind = chance.randrange(5)
        if kind < 2 and colon:
            rows[at] = f"{key}: {chance.choice(VALUES)}\n"
        elif kind == 2:
            rows[at] = ""
        elif kind == 3:
            rows[at], other = rows[chance.randrange(len(rows))], rows[at]
            rows.insert(chance.randrange(len(rows)), other)
        else:
            place = chance.randrange(len(rows[at]) + 1)
            rows[at] = rows[at][:place] + chance.choice("\t\x00\ufeff\r{}[]&*!|>'\"%@`:,- #é") + rows[at][place:]
        rows[at] = rows[at] or "\n"
    return "".join(rows)


def ends_well(work: Callable[[], object]) -> None:
    said = "Next: "
    try:
        work()
    except EtudeError as error:
        said = str(error)
    assert "Next: " in said
    said.encode()


def mutate_and_check(folder: Path, count: int, chance: random.Random) -> None:
    """Broken files: each by itself, and the first one with the whole project that it belongs to."""
    shutil.copytree(PARAMS, folder)
    for name, schema in SCHEMAS.items():
        text = (ROOT / "tests/params" / name).read_text(encoding="utf-8")
        for _ in range(count):
            (folder / name).write_text(mutated(text, chance), encoding="utf-8", newline="")
            ends_well(lambda: validate(read_yaml(folder / name), schema, name))  # noqa: B023
        ends_well(lambda: check(folder))
        (folder / name).write_text(text, encoding="utf-8")


def test_a_file_with_something_wrong_anywhere_is_an_error_of_ours_or_fine(tmp_path: Path) -> None:
    mutate_and_check(tmp_path / "project", 6, random.Random(1))


@pytest.mark.slow
def test_thousands_of_files_with_something_wrong_are_errors_of_ours_or_fine(tmp_path: Path) -> None:
    mutate_and_check(tmp_path / "project", 300, random.Random(2))
