from etude.inspection.contents import Caption
from etude.inspection.counts import SHOWN, are_tags, count_lengths, count_sizes, count_tags, count_words
from etude.inspection.tokens import READ, measure_text


def captions(*texts: str) -> list[Caption]:
    return [Caption(text, "file", "a.txt", measure_text(text)) for text in texts]


def test_lists_between_commas_are_tags_and_sentences_are_not() -> None:
    assert are_tags(captions("1girl, solo, looking at viewer", "1boy, hat, red cape", "a dog"))
    assert not are_tags(captions("a dog", "a red fox that runs through the snow, by night, and far from any house"))


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


def test_rare_words_of_a_large_set_are_only_counted() -> None:
    found = count_tags(captions(*(f"tag {number}" for number in range(SHOWN + 5))))
    assert (len(found.counts), found.more) == (SHOWN, 5)


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
