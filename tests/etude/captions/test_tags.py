from typing import Any

import pytest

from etude.captions.tags import KAOMOJI, Tag, write_tags
from tests.etude.captions.tagging import tags

SEEN = [
    Tag("sensitive", "rating", 0.2),
    Tag("explicit", "rating", 0.7),
    Tag("blue_eyes", "general", 0.5),
    Tag("^_^", "general", 0.9),
    Tag("||_||", "general", 0.4),
    Tag(r"\m/", "general", 0.8),
    Tag("smile_(style)", "general", 0.6),
    Tag("dim", "general", 0.34),
    Tag("some_artist", "artist", 0.95),
    Tag("saber_(alter)_(fate)", "character", 0.7),
    Tag("rem", "character", 0.99),
]


def written(**changed: Any) -> list[str]:
    return write_tags(SEEN, {"general": 0.35, "character": 0.65}, tags(**changed)).split(", ")


def test_tags_from_their_categorys_threshold_on_are_named_in_the_models_order() -> None:
    assert written() == ["blue eyes", "^_^", "|| ||", r"\m/", "smile (style)", "saber (alter) (fate)", "rem"]
    assert written(categories=["character"]) == ["saber (alter) (fate)", "rem"]
    assert written(categories=["artist"]) == ["some artist"]  # a category without a threshold has that of general
    assert write_tags([Tag("a", "general", 0.35), Tag("b", "general", 0.34)], {"general": 0.35}, tags()) == "a"
    assert write_tags([], {"general": 0.35}, tags()) == ""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("keep", ["blue_eyes", "^_^", "||_||"]),
        ("kohya", ["blue eyes", "^_^", "|| ||"]),
        ("smilingwolf", ["blue eyes", "^_^", "||_||"]),
        ("a1111", ["blue eyes", "^ ^", "|| ||"]),
    ],
)
def test_each_programs_rule_says_which_underscores_are_spaces(rule: str, expected: list[str]) -> None:
    assert written(underscores=rule, categories=["general"])[:3] == expected


def test_the_kaomoji_are_those_of_smilingwolfs_app() -> None:
    assert len(KAOMOJI) == 19
    assert {"(o)_(o)", "<|>_<|>", ">_o"} < KAOMOJI


def test_brackets_get_a_backslash_and_by_a1111s_rule_backslashes_too() -> None:
    assert written(escape="smilingwolf")[3:5] == [r"\m/", r"smile \(style\)"]
    assert written(escape="a1111")[3:5] == [r"\\m/", r"smile \(style\)"]


def test_tags_stand_by_score_or_alphabet_and_characters_behind_before_or_among_them() -> None:
    assert written(order="score")[:3] == ["^_^", r"\m/", "smile (style)"]
    assert written(order="alphabet")[:3] == [r"\m/", "^_^", "blue eyes"]
    assert written(order="score", characters="first")[:3] == ["rem", "saber (alter) (fate)", "^_^"]
    assert written(order="score", characters="among")[:4] == ["rem", "^_^", r"\m/", "saber (alter) (fate)"]
    assert written(characters="first")[:3] == ["rem", "saber (alter) (fate)", "blue eyes"]  # kohya's: reversed


def test_the_most_likely_rating_stands_first_or_last_and_is_no_tag_otherwise() -> None:
    assert written(rating="first")[0] == "explicit"
    assert written(rating="last")[-1] == "explicit"
    assert "explicit" not in written()
    assert written(rating="last", undesired=["explicit"])[-1] == "rem"


def test_undesired_tags_are_left_out_however_their_spaces_are_written() -> None:
    for name in ("blue_eyes", "blue eyes"):
        for rule in ("keep", "kohya"):
            assert written(undesired=[name], underscores=rule)[0] == "^_^"


def test_replacements_name_tags_as_they_are_written_and_what_replaces_them_is_judged() -> None:
    assert written(replacements={"blue eyes": "azure eyes"})[0] == "azure eyes"
    assert written(replacements={"blue_eyes": "azure eyes"})[0] == "blue eyes"
    assert written(replacements={"blue eyes": "red"}, undesired=["red"])[0] == "^_^"


def test_a_characters_series_becomes_a_tag_of_its_own() -> None:
    assert written(expand=True)[-3:] == ["saber (alter)", "fate", "rem"]


def test_of_more_tags_than_the_limit_the_most_likely_stay_in_their_order() -> None:
    assert written(limit=3) == ["^_^", r"\m/", "rem"]
    assert written(limit=3, rating="first") == ["explicit", "^_^", r"\m/", "rem"]


def test_tags_wanted_first_are_moved_one_after_the_other_as_kohyas_script_does() -> None:
    assert written(first=["rem", "not there", "^_^"])[:3] == ["^_^", "rem", "blue eyes"]


def test_with_ranks_each_tag_has_its_score() -> None:
    assert written(ranks=True, escape="a1111")[4] == r"(smile \(style\):0.600)"


@pytest.mark.parametrize(
    "wrong", [{"general": 1.5}, {"categories": []}, {"undesired": ["a", "a"]}, {"order": "random"}, {"first": [" a"]}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        tags(**wrong)
