"""How outputs are compared: numbers, tensors, listings, causes and machines; and the page that compares experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.core.tensors import write_tensors
from flows import comparison, verdict
from flows.comparison import Result, render
from flows.verdict import CLOSE, DIFFERS, IDENTICAL, MISSING, SHOWN, Run, Verdict, judge


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-4}, None),
        ({"a": 100.0}, {"a": 100.09}, None),  # relative, not absolute
        ({"a": 0.01}, {"a": 0.0101}, "a 0.01 → 0.0101"),
        ({"a": 0.0}, {"a": 1e-9}, "a 0.0 → 1e-09"),
        ({"a": {"b": [1, 2, 3]}}, {"a": {"b": [1, 2, 4]}}, "a.b[2] 3 → 4"),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, "a [1, 2] → [1, 2, 3]"),
        ({"a": 1}, {"b": 1}, "it {'a': 1} → {'b': 1}"),
        ([["x", "1.0"]], [["x", "1.0001"]], None),  # a table holds texts
        ([["x"]], [["y"]], "[0][0] x → y"),
        ({"a": None}, {"a": 1}, "a None → 1"),
        ({"a": None}, {"a": None}, None),
        ({"a": 1, "b": 2}, {"a": 3, "b": 4}, "a 1 → 3"),
        ([], {}, "it [] → {}"),
    ],
)
def test_the_first_place_that_is_too_far_away_is_named(old: Any, new: Any, place: str | None) -> None:
    assert verdict._far(old, new, 1e-3) == place


@pytest.mark.parametrize(
    ("name", "old", "new", "same", "detail"),
    [
        ("a.json", '{"x": 1}', '{"x": 1.0005}', True, "numbers differ by less than 0.001"),
        ("a.json", '{"x": 1}', '{"x": 1.01}', False, "x 1 → 1.01"),
        ("a.csv", "a,b\n1,2\n", "a,b\n1,2.001\n", True, "numbers differ by less than 0.001"),
        ("a.tsv", "a\tb\n1,5\t2\n", "a\tb\n1,5\t3\n", False, "[1][1] 2 → 3"),
        ("a.txt", "1.0", "1.0001", False, "its bytes differ"),
    ],
)
def test_numbers_are_compared_in_the_files_that_hold_them(
    name: str, old: str, new: str, same: bool, detail: str, tmp_path: Path
) -> None:
    (tmp_path / "old").write_text(old)
    (tmp_path / "new").write_text(new)
    assert verdict._compare_files(name, tmp_path / "old", tmp_path / "new", 1e-3) == (same, detail)


def test_tensors_are_compared_by_name_type_shape_and_bytes(tmp_path: Path) -> None:
    files = {
        "base": ({"a": torch.zeros(2, 3)}, {"seed": 0, "rank": 1, "steps": 2, "rate": 3}),
        "facts": ({"a": torch.zeros(2, 3)}, {"seed": 1, "rank": 2, "steps": 3, "rate": 4}),
        "value": ({"a": torch.ones(2, 3)}, {}),
        "shape": ({"a": torch.zeros(3, 2)}, {}),
        "type": ({"a": torch.zeros(2, 3, dtype=torch.float16)}, {}),
        "name": ({"b": torch.zeros(2, 3)}, {}),
    }
    for name, (tensors, facts) in files.items():
        write_tensors(tmp_path / name, tensors, {"etude": json.dumps(facts)} if facts else {})
    (tmp_path / "broken").write_bytes(b"no header")

    def compare(name: str) -> tuple[bool, str]:
        return verdict._compare_files("a.safetensors", tmp_path / "base", tmp_path / name, 1.0)

    assert compare("facts") == (False, "the same tensors, other facts: rank 1 → 2; rate 3 → 4; seed 0 → 1")
    assert compare("base") == (False, "the same tensors, other facts")
    for name in ("value", "shape", "type", "name"):
        assert compare(name)[1].startswith("other tensors: rank 1 → None"), name
    same, told = compare("broken")
    assert (same, "broken" in told) == (False, True)


def make_run(folder: Path, *files: dict[str, str]) -> list[dict[str, Path]]:
    """Files with these contents, in folders that are named as in DVC's cache."""
    made: list[dict[str, Path]] = []
    for contents in files:
        made.append({})
        for name, content in contents.items():
            path = folder / content[:2] / content[2:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            made[-1][name] = path
    return made


def test_a_folder_is_close_where_all_that_differs_is_and_its_first_differences_are_shown(tmp_path: Path) -> None:
    old, new, far = make_run(
        tmp_path, {"a.json": "1.000", "b.txt": "same"}, {"a.json": "1.0001", "b.txt": "same"}, {"a.json": "1.000"}
    )
    assert verdict._compare(old, new, 1e-3) == (CLOSE, ("a.json: numbers differ by less than 0.001",))
    assert verdict._compare(old, far, 1e-3) == (DIFFERS, ("b.txt is missing",))
    assert verdict._compare(far, old, 1e-3) == (DIFFERS, ("b.txt is new",))
    first, second = make_run(tmp_path, {"x.txt": "aa1", "y.txt": "bb1"}, {"x.txt": "aa2", "y.txt": "cc1"})
    assert verdict._compare(first, second, 1) == (DIFFERS, ("x.txt: its bytes differ", "y.txt: its bytes differ"))
    many = [{f"{number}.txt": f"a{number}{text}" for number in range(SHOWN + 2)} for text in "xy"]
    kind, details = verdict._compare(*make_run(tmp_path, *many), 1)
    assert (kind, len(details), details[-1]) == (DIFFERS, SHOWN + 1, "and 2 more")
    gone = {"a.json": tmp_path / "no/file"}
    for pair in ((gone, old), (old, gone), ({}, old), (old, {})):
        assert verdict._compare(*pair, 1)[1] == ("its recorded content is not in the cache: only hashes were compared",)


def test_every_output_has_its_verdict_and_what_caused_it(tmp_path: Path) -> None:
    def entry(cmd: str, rank: int, deps: dict[str, str], **outs: str) -> dict[str, Any]:
        read = [{"path": path, "md5": md5} for path, md5 in deps.items()]
        made = [{"path": path, "md5": md5} for path, md5 in outs.items()]
        return {"cmd": cmd, "params": {"p.yaml": {"rank": rank, "same": 1}}, "deps": read, "outs": made}

    before = Run(
        {
            "kept": entry("c", 4, {"in": "1", "code": "1"}, a="1", b="1", c="1"),
            "same": entry("c", 4, {}, d="1"),
        },
        tmp_path,
    )
    after = Run(
        {
            "kept": entry("other", 8, {"in": "2", "more": "1"}, a="1", b="2"),
            "same": entry("c", 4, {}, d="1"),
            "new": entry("c", 4, {}, e="1"),
        },
        tmp_path,
    )
    names = {"kept": "x:kept", "same": "x:same", "new": "x:new", "none": "x:none"}
    causes = (
        "p.yaml.rank 4 → 8",
        "reads another code",
        "reads another in",
        "reads another more",
        "its command changed",
    )
    lost = "its recorded content is not in the cache: only hashes were compared"
    assert judge(before, after, names, 1e-3) == [
        Verdict("x:kept", "a", IDENTICAL, causes),
        Verdict("x:kept", "b", DIFFERS, (*causes, lost)),
        Verdict("x:kept", "c", MISSING, causes),
        Verdict("x:same", "d", IDENTICAL),
        Verdict("x:new", "e", DIFFERS, ("no run of this stage was recorded",)),
    ]


def test_the_files_of_an_output_are_where_dvc_keeps_them(tmp_path: Path) -> None:
    run = Run({}, tmp_path)
    assert run.files({"path": "out/a.json", "md5": "abcdef"}) == {"a.json": tmp_path / "files/md5/ab/cdef"}
    assert run.files({"path": "out", "md5": "abcdef.dir"}) == {}
    listing = tmp_path / "files/md5/ab/cdef.dir"
    listing.parent.mkdir(parents=True)
    listing.write_text('[{"relpath": "x/y.png", "md5": "123456"}]')
    assert run.files({"path": "out", "md5": "abcdef.dir"}) == {"x/y.png": tmp_path / "files/md5/12/3456"}


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("lora:evaluate image_similarity.best", [0.1, 0.5, 0.2], 0.5),
        ("lora:evaluate image_similarity.final", [0.1, 0.5], 0.5),
        ("lora:evaluate image_similarity", [0.1, None, 0.5], 0.5),
        ("validation_loss.best", [0.1, 0.5], 0.1),
        ("lora:evaluate image_similarity.best_spread", [0.1, 0.5], None),
        ("lora:evaluate unknown.best", [0.1, 0.5], None),
        ("lora:evaluate image_similarity.best", [None, "x", True], None),
        ("lora:evaluate image_similarity.base", [0.1, 0.5], None),
    ],
)
def test_the_best_number_of_a_metric_is_known_by_its_name(name: str, values: list[Any], best: float | None) -> None:
    assert comparison._best(name, values) == best


def test_a_page_shows_numbers_in_short_and_leaves_gaps_where_there_are_none(tmp_path: Path) -> None:
    results = [Result("a", {"x": 0.123456, "on": True, "n": 12345}), Result("b", {"x": 2, "n": 12345})]
    page = render("mine", results)
    for cell in ("<td>0.1235</td>", "<td>True</td>", "<td></td>", "<td>12345</td>", "<td>2</td>"):
        assert cell in page
    assert page.index("<th>x</th>") < page.index("<th>on</th>") < page.index("<th>n</th>")  # alike in all: last
    assert 'class="best"' not in page
    path = comparison.write(tmp_path, "mine / two", results)
    assert path.parent == tmp_path / "logs/sweeps"
    assert "/" not in path.name
    assert "<title>mine / two</title>" in path.read_text()
    assert comparison.write(tmp_path, "mine / two", results[:1]) == path


def test_where_all_experiments_measured_the_same_none_is_the_best(tmp_path: Path) -> None:
    name = "lora:evaluate image_similarity.best"
    equal = [Result("a", {name: 0.5}), Result("b", {name: 0.5})]
    assert 'class="best"' not in render("mine", equal)
    assert render("mine", [*equal, Result("c", {name: 0.25})]).count('class="best"') == 2
    assert "&lt;b&gt;" in render("<b>", [Result("<b>")])
    assert "<b>" not in render("<b>", [Result("<b>", {"<b>": 1}, {"<b>": "data:,"}, "<b>")])
