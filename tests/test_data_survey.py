"""What the planner is told about vocabularies."""

import random
from pathlib import Path

import pytest

from pufferfish.base.errors import UserError
from pufferfish.data.corpus import inspect_corpus
from pufferfish.data.sources.text import TextSource
from pufferfish.data.survey import read_sample, survey, train_bytes_after_split
from pufferfish.data.tokenizer import train_up_to
from pufferfish.schema.params import DataParams


@pytest.fixture(autouse=True)
def in_own_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def write_lines(path: str, count: int, num_words: int = 400) -> DataParams:
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij🐡é", k=source.randint(2, 7))) for _ in range(num_words)]
    Path(path).write_text("".join(f"{number} " + " ".join(source.choices(words, k=13)) + "\n" for number in range(count)), "utf-8")
    return DataParams(source="text", path=path)


def test_larger_vocabularies_need_fewer_tokens():
    data = write_lines("lines.txt", 4000)
    found = survey(data, inspect_corpus(data), [700, 300, 450], sample_bytes=150_000)
    assert [one.vocab_size for one in found] == [300, 450, 700]
    assert found[0].bytes_per_token < found[1].bytes_per_token < found[2].bytes_per_token
    assert all(one.train_tokenizer_s > 0 and one.encode_s_per_mb > 0 for one in found)


def test_the_same_text_and_seed_give_the_same_numbers():
    data = write_lines("lines.txt", 4000)
    corpus = inspect_corpus(data)
    one, two = (survey(data, corpus, [300, 450], 100_000) for _ in range(2))
    assert [each.bytes_per_token for each in one] == [each.bytes_per_token for each in two]


def test_vocabularies_that_the_text_cannot_fill_are_left_out():
    data = write_lines("lines.txt", 4000)
    assert [one.vocab_size for one in survey(data, inspect_corpus(data), [300, 60_000], 100_000)] == [300]


def test_a_larger_sample_is_tried_before_a_vocabulary_is_refused():
    data = write_lines("lines.txt", 12_000, num_words=5000)
    assert train_up_to(read_sample(TextSource(data.path), 1, data.seed), 4000).get_vocab_size() < 4000
    assert [one.vocab_size for one in survey(data, inspect_corpus(data), [4000], sample_bytes=1)] == [4000]
    with pytest.raises(UserError, match="too small for a vocabulary of 60000") as error:
        survey(data, inspect_corpus(data), [60_000], sample_bytes=1)
    assert "at most" in error.value.fix


def test_a_sample_comes_from_all_over_the_text_in_whole_lines():
    data = write_lines("lines.txt", 20_000)
    lines = set(Path("lines.txt").read_text("utf-8").splitlines())
    sample = read_sample(TextSource(data.path), 200_000, seed=0)
    assert {line for text in sample for line in text.splitlines()} <= lines
    numbers = [int(text.split()[0]) for text in sample]
    assert numbers == sorted(numbers)
    assert len({number // 2500 for number in numbers}) == 8
    assert 140_000 < sum(len(text.encode()) for text in sample) <= 210_000
    assert sample != read_sample(TextSource(data.path), 200_000, seed=1)


def test_short_documents_fill_a_sample_as_long_ones_do():
    Path("folder").mkdir()
    for number in range(400):
        Path(f"folder/{number:03}.txt").write_text(f"{number} speaks of fish and water\n" * 50, "utf-8")
    Path("folder/empty.txt").touch()
    sample = read_sample(TextSource("folder"), 200_000, seed=0)
    assert 190_000 < sum(len(text.encode()) for text in sample) <= 200_000
    assert {line[line.index(" ") :] for text in sample for line in text.splitlines()} == {" speaks of fish and water"}


def test_a_text_without_lines_is_sampled_in_whole_characters():
    Path("folder").mkdir()
    Path("folder/one.txt").write_text("🐡" * 40_000, "utf-8")
    assert set("".join(read_sample(TextSource("folder"), 50_000, seed=0))) == {"🐡"}


def test_what_is_left_to_learn_from_is_estimated():
    data = write_lines("lines.txt", 400)
    corpus = inspect_corpus(data)
    assert train_bytes_after_split(corpus, validation_share=0.25, max_validation_bytes=10**9) == corpus.num_bytes - corpus.num_bytes // 4
    assert train_bytes_after_split(corpus, validation_share=0.25, max_validation_bytes=100) == corpus.num_bytes - 100
    own = corpus.model_copy(update={"validation_path": "own"})
    assert train_bytes_after_split(own, validation_share=0.25, max_validation_bytes=100) == corpus.num_bytes
