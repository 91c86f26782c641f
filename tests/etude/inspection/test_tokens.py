import random
from pathlib import Path

from etude.base.tokenizer import load_tokenizer
from etude.inspection.tokens import READ, measure_text

TEXTS = (
    "",
    "a red fox's tail, 1girl, ^_^, solo; don't",
    "ÄÖÜ été e\u0301te\u0301 漢字 日本語 😀👍🏽 हिन्दी",
    "tab\tnew\nline  two",
    "<|endoftext|> b",
    "İstanbul ǅ ß 4k 1234567",
    "a, " * 60,
    "x" * 400,
)
SIGNS = [chr(code) for code in (*range(32, 127), *range(0xA0, 0x250), *range(0x3040, 0x3060), 0x1F600, 0x301, 0x200D)]


def test_a_caption_has_as_many_tokens_as_in_the_text_encoders_tokenizer_and_is_cut_at_the_same_place() -> None:
    chance = random.Random(0)
    texts = [*TEXTS, *("".join(chance.choices(SIGNS, k=chance.randint(1, 300))) for _ in range(200))]
    tokenizer = load_tokenizer(Path("nowhere"), "<|endoftext|>")
    cuts = 0
    for text in texts:
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        count = len(coded["input_ids"])
        cut = text[coded["offset_mapping"][READ][0] :] if count > READ else ""
        assert measure_text(text) == (count, cut), text
        cuts += bool(cut)
    assert 50 < cuts < len(texts) - 20


def test_texts_with_more_chunks_are_cut_later() -> None:
    text = "cat " * 2 * READ + "a dog"
    assert measure_text(text, 2 * READ).cut == "a dog"
    assert measure_text(text, 3 * READ).cut == ""
