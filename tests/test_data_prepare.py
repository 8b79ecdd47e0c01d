"""From text to token files, as the plan asks, and what is said when that cannot be."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pufferfish.base.errors import UserError
from pufferfish.data import prepare, shards
from pufferfish.data.corpus import inspect_corpus
from pufferfish.data.prepare import Side, prepare_subset, split
from pufferfish.data.sources import text as text_source
from pufferfish.data.survey import survey
from pufferfish.data.tokenizer import SEPARATOR, load_tokenizer
from pufferfish.schema.params import DataParams
from pufferfish.schema.plan import DataPlan

OUT = Path("artifacts/subset")


@pytest.fixture(autouse=True)
def in_own_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def document(number: int) -> str:
    source = random.Random(number)
    words = [f"{first}{second}" for first in ("ba", "ke", "lo", "mi", "nu") for second in ("ra", "se", "to", "vu", "xy", "zo")]
    return f"document {number}\r\n" + "".join(" ".join(source.choices(words, k=source.randint(3, 9))) + " 🐡\n" for _ in range(source.randint(5, 25)))


def write_texts(folder: str, numbers: range) -> None:
    Path(folder).mkdir(exist_ok=True)
    for number in numbers:
        Path(folder, f"{number:03d}.txt").write_bytes(document(number).encode())


def plan_for(data: DataParams, **changes) -> DataPlan:
    corpus = inspect_corpus(data)
    settings = {
        "source": corpus.source,
        "path": corpus.path,
        "corpus": corpus.content,
        "validation_path": corpus.validation_path,
        "validation_content": corpus.validation_content,
        "validation_share": 0.1,
        "max_validation_bytes": 10**6,
        "vocab_size": 301,
        "tokenizer_bytes": 9_000,
        "train_bytes": 10**9,
        "seed": 0,
    }
    return DataPlan(**{**settings, **changes})


def prepared(data: DataParams, **changes) -> tuple[shards.Subset, list[str]]:
    lines: list[str] = []
    return prepare_subset(plan_for(data, **changes), OUT, lines.append), lines


def decoded(shard: shards.Shard, subset: shards.Subset) -> list[str]:
    ids = shards.open_tokens(OUT, shard, subset.token_dtype)
    tokenizer = load_tokenizer(OUT / "tokenizer.json")
    assert ids[0] == subset.separator_id
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False).split(SEPARATOR)[1:]


def test_every_document_is_on_one_side_after_one_separator_and_nothing_is_padding():
    write_texts("texts", range(80))
    subset, _ = prepared(DataParams(source="text", path="texts"))
    train, validation = decoded(subset.train, subset), decoded(subset.validation, subset)
    assert sorted(train + validation) == sorted(document(number) for number in range(80))
    assert set(train).isdisjoint(validation)
    assert (len(train), len(validation)) == (subset.train.num_documents, subset.validation.num_documents)
    assert subset.train.num_bytes == sum(len(text.encode()) for text in train) == subset.corpus_train_bytes
    assert subset.bytes_per_token == subset.train.num_bytes / subset.train.num_tokens
    total = subset.train.num_bytes + subset.validation.num_bytes
    assert 0.07 < subset.validation.num_bytes / total <= 0.1


def test_the_raw_validation_text_stands_beside_its_tokens():
    write_texts("texts", range(80))
    subset, _ = prepared(DataParams(source="text", path="texts"))
    assert shards.read_validation_text(OUT) == decoded(subset.validation, subset)
    assert (OUT / "validation.txt").stat().st_size == subset.validation.num_bytes


def test_the_manifest_vouches_for_the_files():
    write_texts("texts", range(80))
    subset, lines = prepared(DataParams(source="text", path="texts"))
    assert shards.load_subset(OUT) == subset
    assert subset.token_dtype == "uint16"
    assert "80" not in lines[0]
    assert [line.split(":")[0] for line in lines] == ["split", "encoded", "vocabulary"]
    assert not list(Path("artifacts").glob(".*"))


def test_the_same_plan_gives_the_same_bytes_and_another_seed_another_split():
    write_texts("texts", range(80))
    first, _ = prepared(DataParams(source="text", path="texts"))
    again, _ = prepared(DataParams(source="text", path="texts"))
    other, _ = prepared(DataParams(source="text", path="texts"), seed=1)
    assert first == again
    assert first.validation.sha256 != other.validation.sha256


def test_only_the_planned_bytes_are_encoded_and_they_come_from_all_over():
    write_texts("texts", range(80))
    whole, _ = prepared(DataParams(source="text", path="texts"))
    part, _ = prepared(DataParams(source="text", path="texts"), train_bytes=8_000)
    assert 7_990 < part.train.num_bytes <= 8_000
    assert part.validation == whole.validation
    assert part.tokenizer_sha256 == whole.tokenizer_sha256
    assert part.corpus_train_bytes == whole.train.num_bytes
    numbers = [int(text.split()[1]) for text in list(decoded(part.train, part))[:-1]]  # the last one may be cut anywhere
    assert numbers == sorted(numbers)
    assert {number // 20 for number in numbers} == {0, 1, 2, 3}


@pytest.mark.parametrize("min_drawn_bytes", [5_000, 64_000_000])
def test_a_folder_is_walked_once_to_identify_its_text_and_once_to_read_it(min_drawn_bytes, monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", min_drawn_bytes)
    write_texts("texts", range(80))
    walk, walked = text_source.walk, []
    plan = plan_for(DataParams(source="text", path="texts"), train_bytes=20_000, max_validation_bytes=1_000)
    monkeypatch.setattr(text_source, "walk", lambda folder: walked.append(folder) or walk(folder))
    prepare_subset(plan, OUT, lambda line: None)
    assert len(walked) == 2
    walked.clear()
    survey(plan, [301])
    assert len(walked) == 1


def test_a_document_of_which_some_pieces_are_learned_from_is_one_document(monkeypatch):
    Path("texts").mkdir()
    for number in range(5):
        Path(f"texts/{number}.txt").write_text("".join(document(100 * number + part) for part in range(100)))
    sizes = [path.stat().st_size for path in Path("texts").iterdir()]
    plan = {"train_bytes": sum(sizes) // 3, "max_validation_bytes": min(sizes) // 3}
    monkeypatch.setattr(prepare, "LONG_PIECE_BYTES", 1 << 13)
    subset, _ = prepared(DataParams(source="text", path="texts"), **plan)
    assert (subset.train.num_documents, subset.validation.num_documents) == (4, 1)
    assert len(decoded(subset.train, subset)) > 8  # each run of pieces is a sequence of its own


def test_batches_do_not_change_the_tokens(monkeypatch):
    write_texts("texts", range(30))
    whole, _ = prepared(DataParams(source="text", path="texts"))
    monkeypatch.setattr(prepare, "BATCH_BYTES", 700)
    assert prepared(DataParams(source="text", path="texts"))[0] == whole


def test_the_users_validation_text_is_honoured_and_kept_out_of_training():
    write_texts("texts", range(40))
    write_texts("own", range(33, 45))
    subset, lines = prepared(DataParams(source="text", path="texts", validation="own"))
    assert decoded(subset.validation, subset) == [document(number) for number in range(33, 45)]
    assert decoded(subset.train, subset) == [document(number) for number in range(33)]
    assert "left out of the training text: 7 documents" in lines[1]


def test_a_validation_file_in_the_folder_of_the_training_text_is_not_learned_from():
    write_texts("texts", range(40))
    lines = [line for number in range(50, 60) for line in document(number).splitlines()]
    Path("texts/validation.txt").write_text("".join(line + "\n" for line in lines), "utf-8")
    subset, said = prepared(DataParams(source="text", path="texts", validation="texts/validation.txt"))
    assert decoded(subset.validation, subset) == lines
    assert decoded(subset.train, subset) == [document(number) for number in range(40)]
    assert said[1] == "left out of the training text: 1 file of the validation text"


def test_a_divided_text_is_prepared_as_if_both_paths_were_pinned():
    Path("texts").mkdir()
    write_texts("texts/train", range(40))
    write_texts("texts/validation", range(35, 50))
    data, pinned = DataParams(source="text", path="texts"), DataParams(source="text", path="texts/train", validation="texts/validation")
    assert plan_for(data) == plan_for(pinned)
    subset, lines = prepared(data)
    assert decoded(subset.validation, subset) == [document(number) for number in range(35, 50)]
    assert decoded(subset.train, subset) == [document(number) for number in range(35)]
    again, said = prepared(pinned)
    assert (again, said[:-1]) == (subset, lines[:-1])


def test_a_large_validation_text_is_measured_in_part_and_that_is_said():
    write_texts("texts", range(40))
    write_texts("own", range(50, 80))
    subset, lines = prepared(DataParams(source="text", path="texts", validation="own"), max_validation_bytes=5_000)
    assert 4_990 < subset.validation.num_bytes <= 5_000
    assert shards.read_validation_text(OUT) == decoded(subset.validation, subset)
    assert any("a part of the validation text" in line for line in lines)


def test_text_that_is_many_times_the_plan_is_looked_at_in_part_and_that_is_said(monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", 5_000)
    write_texts("texts", range(200))
    subset, lines = prepared(DataParams(source="text", path="texts"), train_bytes=4_000, max_validation_bytes=1_000)
    assert 3_990 < subset.train.num_bytes <= 4_000
    assert set(decoded(subset.train, subset)).isdisjoint(decoded(subset.validation, subset))
    total = sum(len(document(number).encode()) for number in range(200))
    assert 0.9 * total < subset.corpus_train_bytes < total
    assert any(line.startswith("looked at: ") for line in lines)


def texts_of(side: Side) -> list[bytes]:
    return [piece.content for piece in side.read(max_bytes=10**9, seed=0, piece_bytes=10**9)]


@pytest.mark.parametrize(("path", "validation"), [("texts", "auto"), ("lines.txt", "auto"), ("texts", "own"), ("lines.txt", "own.txt")])
def test_all_plans_for_a_long_text_are_measured_on_the_same(path, validation, monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", 5_000)
    monkeypatch.setattr("pufferfish.data.sources.text.STRETCH_BYTES", 500)
    write_texts("texts", range(200))
    write_texts("own", range(150, 350))
    for name, numbers in (("lines.txt", range(200)), ("own.txt", range(150, 350))):
        Path(name).write_text("".join(document(number).replace("\r\n", " ") for number in numbers), "utf-8")
    data = DataParams(source="text", path=path, validation=validation)
    sides = [split(plan_for(data, train_bytes=train_bytes, max_validation_bytes=1_000)) for train_bytes in (100, 4_000, 9_000, 10**9)]
    learned, measured = ([set(texts_of(side)) for side in each] for each in zip(*sides, strict=True))
    assert measured[0] == measured[1] == measured[2] == measured[3]
    assert all(texts.isdisjoint(measured[0]) for texts in learned)
    assert len(learned[0]) < len(learned[1]) < len(learned[2]) < len(learned[3])


def test_a_short_look_measures_on_what_will_be_measured_on_where_documents_are_long(monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", 20_000)
    monkeypatch.setattr(text_source, "SHORT_FILE_BYTES", 0)
    write_texts("texts", range(200))
    plan = plan_for(DataParams(source="text", path="texts"), max_validation_bytes=2_000)
    planned, looked_at = texts_of(split(plan)[1]), split(plan, most_bytes=5_000)
    assert set(texts_of(looked_at[1])) != set(planned)  # short documents: it would cost too much
    assert looked_at[1].source is looked_at[0].source
    monkeypatch.setattr(prepare, "LONG_DOCUMENT_BYTES", 100)
    train, validation = split(plan, most_bytes=5_000)
    assert texts_of(validation) == planned
    assert set(texts_of(train)).isdisjoint(planned)
    assert train.documents.num_bytes < 8_000


def test_a_long_text_of_few_lines_can_be_split(monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", 5_000)
    monkeypatch.setattr("pufferfish.data.sources.text.STRETCH_BYTES", 500)
    Path("lines.txt").write_text("".join(document(number).replace("\r\n", " ").replace("\n", " ") * 20 + "\n" for number in range(20)), "utf-8")
    for seed in range(9):
        plan = plan_for(DataParams(source="text", path="lines.txt"), train_bytes=1_000, max_validation_bytes=500, seed=seed)
        for most_bytes in (None, 1_000):
            train, validation = split(plan, most_bytes=most_bytes)
            assert set(texts_of(train)).isdisjoint(texts_of(validation))


@pytest.mark.parametrize("train_bytes", [4_000, 10**9])
def test_of_a_folder_of_few_large_files_each_is_learned_from_and_measured_on(train_bytes, monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", 60_000)
    monkeypatch.setattr(text_source, "STRETCH_BYTES", 2_000)
    monkeypatch.setattr(text_source, "DOCUMENT_BYTES", 500)
    Path("texts").mkdir()
    for number in range(3):
        Path(f"texts/{number}").write_text("".join(f"file{number} line {line}\n" for line in range(4_000)), "utf-8")
    plan = plan_for(DataParams(source="text", path="texts"), train_bytes=train_bytes, max_validation_bytes=6_000)
    train, validation = split(plan)
    learned, measured = (b"".join(texts_of(side)).split(b"\n") for side in (train, validation))
    assert {line.split()[0] for line in learned if line} == {line.split()[0] for line in measured if line} == {b"file0", b"file1", b"file2"}
    assert set(learned).isdisjoint(set(measured) - {b""})
    assert validation.num_bytes <= 6_000
    assert train.documents.num_bytes < (70_000 if train_bytes == 4_000 else 10**6)


def test_of_text_whose_documents_are_short_less_is_looked_at_and_all_plans_are_measured_on_the_same(monkeypatch):
    monkeypatch.setattr(prepare, "MIN_DRAWN_BYTES", 60_000)
    monkeypatch.setattr(text_source, "STRETCH_BYTES", 500)
    for name, size in (("short.txt", 30), ("long.txt", 300)):
        Path(name).write_text("".join(f"{number} ".ljust(size, "x") + "\n" for number in range(200_000 // size)), "utf-8")
    for name, num_bytes in (("short.txt", 15_000), ("long.txt", 60_000)):
        plan = plan_for(DataParams(source="text", path=name), train_bytes=1_000, max_validation_bytes=1_000)
        sides = [split(plan.model_copy(update={"train_bytes": train_bytes})) for train_bytes in (1_000, 30_000)]
        assert sides[0][0].documents.num_bytes == pytest.approx(num_bytes, rel=0.1)
        assert set(texts_of(sides[0][1])) == set(texts_of(sides[1][1]))


def test_a_separator_spelled_out_in_a_document_is_text():
    write_texts("texts", range(20))
    Path("texts/spelled.txt").write_text(f"one{SEPARATOR}two")
    subset, _ = prepared(DataParams(source="text", path="texts"))
    ids = np.concatenate([shards.open_tokens(OUT, shard, subset.token_dtype) for shard in (subset.train, subset.validation)])
    assert (ids == subset.separator_id).sum() == 21


def test_a_large_vocabulary_has_wider_ids():
    assert shards.token_dtype(65_536) == "uint16"
    assert shards.token_dtype(65_537) == "uint32"


def test_a_sample_too_small_for_the_vocabulary_grows_and_that_is_said():
    write_texts("texts", range(80))
    subset, lines = prepared(DataParams(source="text", path="texts"), tokenizer_bytes=300, vocab_size=330)
    assert load_tokenizer(OUT / "tokenizer.json").get_vocab_size() == subset.vocab_size == 330
    assert any("too few for a vocabulary of 330" in line for line in lines)


def test_a_vocabulary_that_the_text_cannot_fill_is_refused_with_the_reachable_size():
    write_texts("texts", range(10))
    with pytest.raises(UserError, match="too small for a vocabulary of 9000") as error:
        prepared(DataParams(source="text", path="texts"), vocab_size=9000)
    assert "set `data.vocab_size` to at most" in error.value.fix
    assert not OUT.exists()
    assert not list(Path("artifacts").iterdir())


@pytest.mark.parametrize("changed", ["data.path", "data.validation"])
def test_text_that_changed_since_the_plan_is_refused(changed):
    write_texts("texts", range(20))
    write_texts("own", range(30, 40))
    plan = plan_for(DataParams(source="text", path="texts", validation="own"))
    Path("texts" if changed == "data.path" else "own", "new.txt").write_text("a new document")
    with pytest.raises(UserError, match="changed since the plan") as error:
        prepare_subset(plan, OUT, print)
    assert changed in error.value.saw
    assert "dvc repro" in error.value.fix


def test_only_a_refusal_to_write_is_told_as_one(monkeypatch):
    write_texts("texts", range(20))

    def broken(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(prepare, "write_shard", broken)
    with pytest.raises(OSError, match="Input/output error"):
        prepared(DataParams(source="text", path="texts"))
    assert not list(Path("artifacts").glob("**/*.tmp"))


def test_a_finished_subset_survives_a_failure_and_left_overs_are_removed(monkeypatch):
    write_texts("texts", range(20))
    subset, _ = prepared(DataParams(source="text", path="texts"))
    Path("artifacts/.subset.99999999-abc.tmp").mkdir()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "write_shard", full)
    with pytest.raises(UserError, match="cannot be written") as error:
        prepared(DataParams(source="text", path="texts"), seed=1)
    assert "No space left" in error.value.saw
    assert shards.load_subset(OUT) == subset
    assert [path.name for path in Path("artifacts").iterdir()] == ["subset"]


def test_two_at_the_same_time_do_not_disturb_each_other(monkeypatch):
    write_texts("texts", range(20))
    data, write_shard, seen = DataParams(source="text", path="texts"), prepare.write_shard, []
    other = Path(f"artifacts/.subset.{os.getppid()}-abc.tmp")
    other.mkdir(parents=True)
    (other / "train.bin").touch()

    def look(path, *arguments):
        seen.append(path.parent)
        return write_shard(path, *arguments)

    monkeypatch.setattr(prepare, "write_shard", look)
    subset, _ = prepared(data)
    assert other not in seen
    assert (other / "train.bin").exists()
    assert shards.load_subset(OUT) == subset


def spoil(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "validation.txt", "tokenizer.json", "validation_documents.json", "manifest.json"])
def test_a_missing_file_is_named(name):
    write_texts("texts", range(20))
    prepared(DataParams(source="text", path="texts"))
    spoil(OUT / name, None)
    with pytest.raises(UserError) as error:
        shards.load_subset(OUT)
    assert name in error.value.saw
    assert "prepare-subset" in error.value.fix


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    spoil(path, bytes(content))


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "validation.txt", "validation_documents.json", "tokenizer.json"])
def test_a_changed_bit_is_found_before_anything_is_trained(name):
    write_texts("texts", range(20))
    prepared(DataParams(source="text", path="texts"))
    flip_a_bit(OUT / name)
    with pytest.raises(UserError, match="was changed") as error:
        shards.load_subset(OUT)
    assert f"{OUT / name} has SHA-256" in error.value.saw
    assert "prepare-subset" in error.value.fix


def test_files_too_large_to_be_read_each_time_vouch_by_their_size(monkeypatch):
    write_texts("texts", range(20))
    subset, _ = prepared(DataParams(source="text", path="texts"))
    num_bytes = (OUT / "train.bin").stat().st_size
    flip_a_bit(OUT / "train.bin")
    monkeypatch.setattr(shards, "MAX_HASHED_BYTES", num_bytes - 1)
    assert shards.load_subset(OUT) == subset
    monkeypatch.setattr(shards, "MAX_HASHED_BYTES", num_bytes)
    with pytest.raises(UserError, match="was changed"):
        shards.load_subset(OUT)


def test_tokens_of_another_size_are_refused():
    write_texts("texts", range(20))
    subset, _ = prepared(DataParams(source="text", path="texts"))
    spoil(OUT / "train.bin", (OUT / "train.bin").read_bytes()[:-2])
    for read in (lambda: shards.load_subset(OUT), lambda: shards.open_tokens(OUT, subset.train, "uint16")):
        with pytest.raises(UserError, match="was changed") as error:
            read()
        assert f"written were {2 * subset.train.num_tokens}" in error.value.saw


def test_the_stage_runs_from_the_plan():
    stage = Path(__file__).parents[1] / "stages" / "prepare_subset.py"
    missing = subprocess.run([sys.executable, stage], capture_output=True, text=True, env={**os.environ, "DVC_ROOT": str(Path.cwd())})
    assert missing.returncode == 2
    assert missing.stderr.startswith("prepare-subset: artifacts/plan.json is missing\n  saw:")
    assert json.dumps(missing.stdout) == '""'
