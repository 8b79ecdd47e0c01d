"""Byte-level BPE: lossless, of the planned size, and the same for everyone who loads it."""

import json
import random
import unicodedata

import pytest

from pufferfish.base.errors import UserError
from pufferfish.data.select import divide
from pufferfish.data.tokenizer import MANY_CORES, NUM_BASE_TOKENS, SEPARATOR, SEPARATOR_ID, encode, load_tokenizer, shrink, train_tokenizer, train_up_to

HARD = [
    "emoji 🐡🐡🏳️‍🌈 and é, e\u0301, 中文, עברית",
    "tabs\t\tand\r\nCRLF\r\n\r\n",
    "control \x01\x02\x1b[0m\x7f \x85 \u2028 \ufeff",
    "  leading and trailing  \n\n\n   ",
    "12345678901234567890 3.14159 1e-3",
    SEPARATOR + "x" + SEPARATOR,
    "def f(self, *args):\n\treturn {'a': 1}  # noqa\n",
    "don't WE'LL they've",
    "\ud7ff\ue000\U0010ffff",
    "",
    "हिन्दी की क्षत्रिय भाषा।\r\nதமிழ் மொழி ก็ที่นี่ น้ำ",
    unicodedata.normalize("NFD", "déjà vu, Größe; Việt Nam\n"),
    "\u0301 \u0301\n\u0301a 1\u0301 !\u0301!!\u0301 ❤️ 1️⃣ a\u20dd",
]


def texts(seed: int = 0, count: int = 300) -> list[str]:
    source = random.Random(seed)
    words = ["".join(source.choices("abcdefghijklmnop", k=source.randint(2, 9))) for _ in range(170)]
    return [" ".join(source.choices(words, k=31)) + ".\n" for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(texts(), 512)


def test_the_vocabulary_has_exactly_the_planned_size(tokenizer):
    assert tokenizer.get_vocab_size() == 512
    assert sorted(tokenizer.get_vocab().values()) == list(range(512))
    assert tokenizer.token_to_id(SEPARATOR) == SEPARATOR_ID


@pytest.mark.parametrize("text", HARD)
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_byte_has_a_token_of_its_own(tokenizer):
    ids = [tokenizer.encode(chr(code)).ids for code in range(128)]
    assert sorted(number for each in ids for number in each) == sorted({each[0] for each in ids})
    assert max(max(tokenizer.encode(chr(code)).ids) for code in range(256)) < NUM_BASE_TOKENS


def test_a_document_cannot_forge_a_separator(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for one in (tokenizer, load_tokenizer(tmp_path / "tokenizer.json"), shrink(tokenizer, 300)):
        assert SEPARATOR_ID not in one.encode(f"a{SEPARATOR}b").ids


def test_at_most_two_digits_share_a_token():
    trained = train_tokenizer(["2024 2024 2024 1234 1234 abc abc\n"] * 50, 264)
    tokens = trained.encode("2024 12345").tokens
    assert "20" in tokens
    assert max(sum(character.isdigit() for character in token) for token in tokens) == 2


def test_training_is_reproducible(tokenizer):
    assert train_tokenizer(texts(), 512).to_str() == tokenizer.to_str()
    assert train_tokenizer(texts(seed=1), 512).to_str() != tokenizer.to_str()


def test_the_first_merges_are_the_smaller_tokenizer(tokenizer):
    small = train_tokenizer(texts(), 301)
    assert shrink(tokenizer, 301).to_str() == small.to_str()
    assert shrink(tokenizer, 301).encode(texts()[5]).ids == small.encode(texts()[5]).ids


def test_a_vocabulary_that_the_text_cannot_fill_names_the_one_it_can():
    few = texts(count=3)
    reachable = train_up_to(few, 60000).get_vocab_size()
    with pytest.raises(UserError, match="too small for a vocabulary of 60000") as error:
        train_tokenizer(few, 60000)
    assert str(reachable) in error.value.fix
    assert train_tokenizer(few, reachable).get_vocab_size() == reachable


def test_parts_of_a_long_document_have_the_tokens_of_the_whole(tokenizer):
    whole = "".join(texts()) + "def f():\n    return '''\n\n  x'''\n"
    parts = [part.decode() for part in divide(whole.encode(), 11)]
    assert [number for part in parts for number in tokenizer.encode(part).ids] == tokenizer.encode(whole).ids


@pytest.mark.parametrize("end", [";\r\n", "\r\n"])
def test_crlf_text_is_cut_at_line_starts_and_what_ends_with_punctuation_keeps_its_tokens(end):
    whole = "".join(text.replace(".\n", end) for text in texts(count=100))
    trained = train_up_to(["\r\n"] * 3000 + [whole], 400)
    assert "čĊ" in trained.get_vocab()
    parts = [part.decode() for part in divide(whole.encode(), 11)]
    assert all(part.endswith(end) for part in parts)
    tokens = [token for part in parts for token in trained.encode(part).tokens]
    if end == "\r\n":  # one token at the end of a text, two before a word
        assert tokens.count("čĊ") == len(parts)
        tokens = [half for token in tokens for half in (token if token == "čĊ" else [token])]
        whole = whole.removesuffix(end)
        tokens = tokens[:-2]
    assert tokens == trained.encode(whole).tokens


@pytest.mark.parametrize("word", [" हिन्दी", "ক্ষত্রিয়", " ก็ที่นี่", "(தமிழ்", " עִבְרִית", unicodedata.normalize("NFD", " Việt"), "é".join("a\u0301b")])
def test_a_word_with_its_marks_is_one_piece(tokenizer, word):
    assert any(unicodedata.category(character).startswith("M") for character in word)
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)] == ["".join(tokenizer.encode(word).tokens)]
    assert tokenizer.decode(tokenizer.encode(word).ids) == word


@pytest.mark.parametrize("cores", [1, MANY_CORES])
def test_encoded_pieces_are_those_of_the_library(tokenizer, monkeypatch, cores):
    monkeypatch.setattr("pufferfish.data.tokenizer.num_cores", lambda: cores)
    source = random.Random(3)
    ascii_texts = ["".join(source.choices([*map(chr, range(128)), *"  \n\n''abst019", "'re", "'LL"], k=source.randint(1, 300))) for _ in range(100)]
    characters = [*"  \n\r\t'ab1.", *"é中²Ⅷ’ſ🐡हก\u0301\u094d\u0e34\ufe0f\u20dd", *"\x85\xa0\u1680\u180e\u2009\u2028\u3000\x1c\x1f"]
    others = ["".join(source.choices(characters, k=source.randint(1, 300))) for _ in range(300)]
    together = [*HARD, *ascii_texts, *others, *texts(count=30)]
    assert encode(tokenizer, together) == [tokenizer.encode(text).ids for text in together]
    assert encode(tokenizer, []) == []


def test_transformers_loads_the_same_tokenizer(tokenizer, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token=SEPARATOR)
    for text in [*texts(count=20), *(text for text in HARD if SEPARATOR not in text)]:
        ids = tokenizer.encode(text).ids
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
    assert theirs.eos_token_id == SEPARATOR_ID


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"vocab": {"a": 0}}}'])
def test_a_foreign_tokenizer_file_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="not one of ours"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "absent.json")


def test_a_tokenizer_file_that_breaks_off_behind_its_separator_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {SEPARATOR: SEPARATOR_ID}, "merges": 3}}))
    with pytest.raises(UserError, match="cannot be read") as refusal:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert str(tmp_path) in refusal.value.saw
