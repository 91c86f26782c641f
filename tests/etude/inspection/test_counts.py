from itertools import pairwise

import pytest

from etude.inspection.contents import Caption
from etude.inspection.counts import Bars, are_tags, count_lengths, count_origins, count_sizes, count_tags, count_words
from etude.inspection.tokens import READ, measure_text


def captions(*texts: str) -> list[Caption]:
    return [Caption(text, "file", "a.txt", measure_text(text)) for text in texts]


def test_lists_between_commas_are_tags_and_sentences_are_not() -> None:
    assert are_tags(captions("1girl, solo, looking at viewer", "1boy, hat, red cape", "a dog"))
    assert not are_tags(captions("a dog", "a red fox that runs through the snow, by night, and far from any house"))


@pytest.mark.parametrize(
    ("text", "are"),
    [
        ("fox, snow, night", True),
        ("fox, snow", False),
        ("fox,, snow,", False),
        ("a red fox, the white snow, a dark night", True),  # three words a part
        ("a small red fox, the white snow, a dark night", False),
    ],
)
def test_a_list_of_tags_has_three_parts_or_more_of_three_words_on_average_or_fewer(text: str, are: bool) -> None:
    assert are_tags(captions(text)) is are


def test_half_of_the_captions_are_not_most_of_them() -> None:
    tags, sentence = "fox, snow, night", "a fox"
    assert not are_tags(captions(tags, sentence))
    assert are_tags(captions(tags, tags, sentence))
    assert not are_tags([])


def test_a_tag_counts_once_a_caption_and_the_most_frequent_comes_first() -> None:
    found = count_tags(captions("fox, red fox, fox", "red fox,  snow", ", "))
    assert list(found.counts.items()) == [("red fox", 2), ("fox", 1), ("snow", 1)]
    assert found.more == 0


def test_words_are_counted_without_those_that_say_nothing() -> None:
    assert count_words(captions("A Fox and the fox's tail", "a fox in été")).counts == {
        "fox": 2,
        "fox's": 1,
        "tail": 1,
        "été": 1,
    }


def test_the_longest_bar_is_that_of_the_largest_count_and_no_bar_is_divided_by_0() -> None:
    assert Bars({"fox": 2, "owl": 7, "cat": 3}).largest == 7
    assert Bars({}).largest == Bars({"empty": 0}).largest == 1


def test_the_most_frequent_origin_comes_first() -> None:
    own = [Caption("fox", origin, "", measure_text("fox")) for origin in ("name", "file", "clip", "file")]
    assert list(count_origins(own).counts.items()) == [("file", 2), ("name", 1), ("clip", 1)]


def test_rare_words_of_a_large_set_are_only_counted() -> None:
    found = count_tags(captions(*(f"tag {number}" for number in range(65))))
    assert (len(found.counts), found.more) == (60, 5)
    assert count_tags(captions(*(f"tag {number}" for number in range(60)))).more == 0


def test_lengths_and_many_sizes_are_counted_in_classes() -> None:
    assert count_lengths(captions("", "fox", "a, " * READ)).counts == {"empty": 1, "1–15": 1, "76 or more": 1}
    assert count_sizes([(10, 20), (10, 20), (5, 5)]).counts == {"5×5": 1, "10×20": 2}
    many = [(100 + 100 * number, 5000) for number in range(12)]
    assert count_sizes(many).counts == {
        "0–127 px": 1,
        "128–255 px": 1,
        "256–383 px": 1,
        "384–511 px": 2,
        "512–767 px": 2,
        "768–1023 px": 3,
        "1024–1535 px": 2,
    }


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (1, "1–15"),
        (15, "1–15"),
        (16, "16–30"),
        (30, "16–30"),
        (31, "31–45"),
        (46, "46–60"),
        (61, "61–75"),
        (75, "61–75"),
        (76, "76 or more"),
    ],
)
def test_the_classes_of_lengths_end_at_what_a_text_encoder_reads(tokens: int, name: str) -> None:
    assert count_lengths(captions("cat " * tokens)).counts == {name: 1}


def test_ten_sizes_are_listed_by_their_area_and_eleven_in_classes_by_the_shorter_side() -> None:
    borders = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
    listed = [(side + 1, 9000) for side in reversed(borders)]
    assert list(count_sizes(listed).counts) == [f"{side + 1}×9000" for side in borders]
    assert list(count_sizes([(20, 10), (5, 40), (10, 20)]).counts) == ["5×40", "10×20", "20×10"]
    classes = [f"{begin}–{end - 1} px" for begin, end in pairwise(borders)] + ["4096 or more px"]
    lower = [(9000, max(side, 1)) for side in borders]
    upper = [(end - 1, 9000) for end in borders[1:]] + [(9000, 9000)]
    assert count_sizes(lower + upper).counts == dict.fromkeys(classes, 2)
