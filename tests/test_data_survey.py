"""What the planner is told about vocabularies."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from pufferfish.base import clock
from pufferfish.base.errors import UserError
from pufferfish.data import survey as survey_room
from pufferfish.data.corpus import inspect_corpus
from pufferfish.data.hardness import Hardness
from pufferfish.data.prepare import DRAWN_FACTOR, MIN_DRAWN_BYTES, prepare_subset
from pufferfish.data.sources import text as text_source
from pufferfish.data.survey import Survey, reading_s, survey, text_to_learn_from
from pufferfish.schema.params import DataParams
from pufferfish.schema.plan import DataPlan


@pytest.fixture(autouse=True)
def in_own_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def write_lines(path: str, count: int, num_words: int = 400) -> DataParams:
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij🐡é", k=source.randint(2, 7))) for _ in range(num_words)]
    Path(path).write_text("".join(f"{number} " + " ".join(source.choices(words, k=13)) + "\n" for number in range(count)), "utf-8")
    return DataParams(source="text", path=path)


def surveyed(data: DataParams, *vocab_sizes: int, sample_bytes: int = 100_000) -> Survey:
    corpus = inspect_corpus(data)
    content = {"corpus": corpus.content, "validation_path": corpus.validation_path, "validation_content": corpus.validation_content}
    sizes = {"validation_share": 0.05, "max_validation_bytes": 1_000_000, "vocab_size": max(vocab_sizes), "tokenizer_bytes": 0, "train_bytes": sample_bytes}
    return survey(DataPlan(source=data.source, path=data.path, seed=data.seed, **content, **sizes), vocab_sizes)


def test_larger_vocabularies_need_fewer_tokens():
    found = surveyed(write_lines("lines.txt", 4000), 700, 300, 450).vocabularies
    assert [one.vocab_size for one in found] == [300, 450, 700]
    assert found[0].bytes_per_token < found[1].bytes_per_token < found[2].bytes_per_token
    assert all(one.train_tokenizer_s > 0 and one.encode_s_per_mb > 0 for one in found)


def test_the_same_text_and_seed_give_the_same_numbers():
    data = write_lines("lines.txt", 4000)
    one, two = (surveyed(data, 300, 450) for _ in range(2))
    assert [each.bytes_per_token for each in one.vocabularies] == [each.bytes_per_token for each in two.vocabularies]
    assert one.hardness == two.hardness
    assert surveyed(data.model_copy(update={"seed": 1}), 300, 450).hardness != one.hardness


def test_vocabularies_that_the_text_cannot_fill_are_left_out():
    found = surveyed(write_lines("lines.txt", 4000), 300, 60_000)
    assert [one.vocab_size for one in found.vocabularies] == [300]


def test_a_larger_sample_is_tried_before_a_vocabulary_is_refused():
    data = write_lines("lines.txt", 12_000, num_words=5000)
    assert [one.vocab_size for one in surveyed(data, 4000, sample_bytes=5000).vocabularies] == [4000]
    with pytest.raises(UserError, match="too small for a vocabulary of 60000") as error:
        surveyed(data, 60_000, sample_bytes=5000)
    assert "at most" in error.value.fix


def test_what_filled_a_vocabulary_is_told_and_fills_it_again():
    data = write_lines("lines.txt", 12_000, num_words=5000)
    [found] = surveyed(data, 4000, sample_bytes=5000).vocabularies
    assert 20_000 <= found.filling_bytes <= Path("lines.txt").stat().st_size
    lines = []
    corpus = inspect_corpus(data)
    plan = DataPlan(
        source=data.source, path=data.path, corpus=corpus.content, validation_path="", validation_content="", validation_share=0.05,
        max_validation_bytes=10**6, vocab_size=4000, tokenizer_bytes=int(found.filling_bytes), train_bytes=10**6, seed=0,
    )  # fmt: skip
    prepare_subset(plan, Path("subset"), lines.append)
    assert not any("too few" in line for line in lines)


@pytest.mark.parametrize("num_words", [1, 40])
def test_the_separators_of_short_documents_are_counted(num_words):
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij", k=9)) for _ in range(300)]
    Path("lines.txt").write_text("".join(f"{number} " + " ".join(source.choices(words, k=num_words)) + "\n" for number in range(8000 // num_words)), "utf-8")
    data = DataParams(source="text", path="lines.txt")
    [found] = surveyed(data, 512).vocabularies
    corpus = inspect_corpus(data)
    plan = DataPlan(
        source=data.source, path=data.path, corpus=corpus.content, validation_path="", validation_content="", validation_share=0.05,
        max_validation_bytes=10**6, vocab_size=512, tokenizer_bytes=10**6, train_bytes=10**6, seed=0,
    )  # fmt: skip
    assert found.bytes_per_token == pytest.approx(prepare_subset(plan, Path("subset"), print).bytes_per_token, rel=0.05)


@pytest.mark.parametrize("num_words", [4, 40])
def test_the_length_of_documents_is_that_of_the_one_a_byte_lies_in(num_words):
    Path("lines.txt").write_text("".join(f"{number:05} " + "word " * (num_words * (1 + number % 2)) + "\n" for number in range(4000)), "utf-8")
    short, long = (len(f"{0:05} ") + 5 * num_words * factor for factor in (1, 2))
    found = surveyed(DataParams(source="text", path="lines.txt"), 300)
    assert found.document_bytes == pytest.approx((short**2 + long**2) / (short + long), rel=0.1)


def test_a_larger_sample_for_the_vocabulary_is_none_for_the_hardness(monkeypatch):
    """The n-gram counts a bounded number of tokens, and all texts are compared after as many."""
    data, sizes = write_lines("lines.txt", 12_000, num_words=5000), []
    monkeypatch.setattr(survey_room, "hardness", lambda *_, train_bytes, **__: sizes.append(train_bytes) or Hardness(1.0, -0.1, 0.05))
    assert surveyed(data, 4000, sample_bytes=5000).vocabularies
    assert 0 < sizes[0] <= 5000


def test_what_is_left_to_learn_from_is_what_the_split_leaves():
    Path("novels").mkdir()
    for name, count in (("one", 3000), ("two", 2000)):
        write_lines(f"novels/{name}", count)
    data = DataParams(source="text", path="novels")
    found, corpus = surveyed(data, 300), inspect_corpus(data)
    limits = {"validation_share": 0.05, "max_validation_bytes": 1_000_000}
    assert text_to_learn_from(corpus, found, **limits) == found.train_bytes == Path("novels/one").stat().st_size


def test_few_long_documents_are_measured_on_whole_and_that_is_told():
    Path("novels").mkdir()
    for name, count in (("one", 3000), ("two", 2000), ("three", 2500)):
        write_lines(f"novels/{name}", count)
    found = surveyed(DataParams(source="text", path="novels"), 300)
    assert found.held_back_bytes == Path("novels/two").stat().st_size > 3 * 0.05 * sum(path.stat().st_size for path in Path("novels").iterdir())


def test_reading_costs_a_pass_for_each_purpose_over_what_is_looked_at():
    data = write_lines("lines.txt", 4000)
    corpus, found = inspect_corpus(data), surveyed(data, 300)
    assert found.read_s_per_mb > 0
    found = replace(found, read_s_per_mb=0.05)
    assert reading_s(corpus, found, train_bytes=0, max_validation_bytes=10**6) == pytest.approx(4 * 0.05 * corpus.num_bytes / 1e6, abs=1e-4)
    huge = corpus.model_copy(update={"num_bytes": 10**10, "has_short_documents": False})
    short = huge.model_copy(update={"has_short_documents": True})
    assert reading_s(huge, found, train_bytes=0, max_validation_bytes=10**6) == pytest.approx(4 * 0.05 * MIN_DRAWN_BYTES / 1e6, abs=1e-4)
    assert reading_s(short, found, train_bytes=0, max_validation_bytes=10**6) == pytest.approx(0.05 * MIN_DRAWN_BYTES / 1e6, abs=1e-4)
    for each in (huge, short):
        assert reading_s(each, found, train_bytes=10**9, max_validation_bytes=10**6) == pytest.approx(4 * 0.05 * DRAWN_FACTOR * 1001, abs=1e-4)


def test_files_are_found_a_few_times_and_not_once_for_each_megabyte(monkeypatch):
    Path("folder").mkdir()
    for number in range(20):
        write_lines(f"folder/{number:02}", 100 + number)
    late_s, now_s, walk = [0.0], clock.now_s, text_source.walk
    monkeypatch.setattr(clock, "now_s", lambda: now_s() + late_s[0])
    monkeypatch.setattr(text_source, "walk", lambda folder: late_s.append(late_s.pop() + 1000.0) or walk(folder))
    data = DataParams(source="text", path="folder")
    found, corpus = surveyed(data, 300), inspect_corpus(data).model_copy(update={"num_bytes": 10**10})
    assert late_s[0] >= 2000
    assert 0 < found.read_s_per_mb < 10
    many = corpus.model_copy(update={"num_files": 10**6})
    few_s, many_s = (reading_s(each, found, train_bytes=0, max_validation_bytes=10**6) for each in (corpus, many))
    assert 15 < many_s - few_s < 30, "seconds, for a million files more"


def test_of_large_files_two_are_looked_at(monkeypatch):
    Path("folder").mkdir()
    for name in ("one", "two", "three"):
        Path(f"folder/{name}.txt").write_text(f"{name} and some words more, or fewer\n" * 300, "utf-8")
    monkeypatch.setattr(survey_room, "MOST_BYTES", 1000)
    assert surveyed(DataParams(source="text", path="folder"), 257, sample_bytes=1000).hardness.bpb > 0


def test_a_single_large_line_is_looked_at(monkeypatch):
    Path("line.txt").write_text("a few words and no end of them " * 3000, "utf-8")
    Path("own.txt").write_text("a few words\n" * 30, "utf-8")
    monkeypatch.setattr(survey_room, "MOST_BYTES", 1000)
    assert surveyed(DataParams(source="text", path="line.txt", validation="own.txt"), 257, sample_bytes=1000).hardness.bpb > 0


def test_what_is_measured_on_decides_how_hard_a_text_is():
    data = write_lines("lines.txt", 4000)
    Path("same.txt").write_text("".join(Path("lines.txt").read_text("utf-8").splitlines(keepends=True)[:200]), "utf-8")
    Path("other.txt").write_text("".join(f"{number} quite other words\n" for number in random.Random(1).sample(range(10**6), 200)), "utf-8")
    other, held_back = (surveyed(data.model_copy(update={"validation": name}), 300).hardness.bpb for name in ("other.txt", "auto"))
    assert other > 1.3 * held_back


def test_what_the_sample_does_not_show_of_copies_is_found_in_the_whole_text():
    Path("folder").mkdir()
    data = write_lines("lines.txt", 4000)
    text = Path("lines.txt").read_text("utf-8")
    for number in range(40):
        Path(f"folder/{number:02}.txt").write_text(text[number * 5000 :][:5000] + f"\n{number}\n", "utf-8")
        Path(f"folder/{number:02} again.txt").write_text(text[number * 5000 :][:5000] + "\nagain\n", "utf-8")
    twice, once = surveyed(DataParams(source="text", path="folder"), 300), surveyed(data, 300)
    assert twice.copies.share > 0.3
    assert once.copies.share == 0
    assert twice.copies.num_bytes > 350_000


@pytest.mark.parametrize("text", ["🐡" * 40_000, "🐡" * 1000, "one\n" * 2000 + "two\n" * 20, "word " * 1000])
def test_any_text_can_be_surveyed(text):
    Path("folder").mkdir()
    Path("folder/one.txt").write_text(text, "utf-8")
    Path("folder/two.txt").write_text("a few other words\n" * 60, "utf-8")
    assert surveyed(DataParams(source="text", path="folder"), 257).hardness.bpb > 0


def test_what_is_left_to_learn_from_is_estimated_where_only_a_part_was_looked_at():
    data = write_lines("lines.txt", 400)
    corpus, found = inspect_corpus(data).model_copy(update={"num_bytes": 10**9}), surveyed(data, 300)
    assert text_to_learn_from(corpus, found, validation_share=0.25, max_validation_bytes=10**9) == 750_000_000
    assert text_to_learn_from(corpus, found, validation_share=0.25, max_validation_bytes=100) == 10**9 - 100
    own = corpus.model_copy(update={"validation_path": "own"})
    assert text_to_learn_from(own, found, validation_share=0.25, max_validation_bytes=100) == 10**9


def test_numbers_fill_only_a_small_vocabulary_and_are_learned_from_all_the_same():
    source = random.Random(0)
    Path("numbers.csv").write_text("".join(",".join(str(source.randrange(10**6)) for _ in range(12)) + "\n" for _ in range(20_000)), "utf-8")
    found = surveyed(DataParams(source="text", path="numbers.csv"), 260, 512, 1024)
    assert [each.vocab_size for each in found.vocabularies] == [260]


def test_a_large_text_is_not_looked_at_with_tiny_vocabularies():
    data = write_lines("lines.txt", 30_000, num_words=2000)
    assert Path("lines.txt").stat().st_size > 1_000_000
    assert [each.vocab_size for each in surveyed(data, 260, 512, 1024).vocabularies] == [512, 1024]
    assert [each.vocab_size for each in surveyed(data, 300).vocabularies] == [300]
