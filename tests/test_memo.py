"""Kept answers: there when the same is asked of the same code, gone in every other case, and never a reason to fail."""

import json

import pytest

from pufferfish.base import memo


@pytest.fixture
def said(workplace):
    return []


def recall(question, said, read=list):
    return memo.recall("survey", question, read, tell=said.append)


def test_an_answer_is_there_for_the_same_question_alone(said):
    memo.keep("survey", {"a": 1}, [3, 4], tell=said.append)
    assert recall({"a": 1}, said) == [3, 4]
    assert recall({"a": 2}, said) is None
    assert memo.recall("steps", {"a": 1}, list, tell=said.append) is None
    assert said == []


def test_other_code_finds_it_out_anew(said, monkeypatch):
    memo.keep("survey", {"a": 1}, [3, 4], tell=said.append)
    monkeypatch.setattr(memo, "digest_code", lambda *rooms: "other code")
    assert recall({"a": 1}, said) is None
    assert [each.is_current for each in memo.all_kept()] == [False]


def numbers(answer):
    return [int(each["number"]) for each in answer]


@pytest.mark.parametrize(
    "damage", ["", "{", "[1]", "7", '{"question": {"a": 1}}', '{"question": {"a": 2}, "answer": []}', '{"question": {"a": 1}, "answer": [{"number": "x"}]}']
)
def test_a_damaged_file_is_told_in_one_line_and_written_anew(said, damage):
    memo.keep("survey", {"a": 1}, [{"number": 5}], tell=said.append)
    path = memo.path_of("survey", {"a": 1})
    path.write_text(damage, "utf-8")
    assert recall({"a": 1}, said, numbers) is None
    assert len(said) == 1
    assert "\n" not in said[0]
    assert path.name in said[0]
    memo.keep("survey", {"a": 1}, [{"number": 6}], tell=said.append)
    assert recall({"a": 1}, said, numbers) == [6]
    assert len(said) == 1


def test_a_place_that_cannot_be_written_is_told_and_no_failure(said):
    memo.folder().parent.mkdir(parents=True)
    memo.folder().write_text("a file where the folder should be")
    memo.keep("survey", {"a": 1}, [3], tell=said.append)
    assert len(said) == 1
    assert recall({"a": 1}, said) is None


def test_damaged_files_count_as_outdated(said):
    memo.keep("survey", {"a": 1}, [3], tell=said.append)
    memo.keep("steps", {"a": 1}, [3], tell=said.append)
    memo.path_of("steps", {"a": 1}).write_text("{")
    assert [(each.path.name.split("-")[0], each.is_current) for each in memo.all_kept()] == [("steps", False), ("survey", True)]
    assert all(each.num_bytes == each.path.stat().st_size for each in memo.all_kept())


def test_files_are_readable_and_name_their_question(said):
    memo.keep("steps", {"machine": "m"}, [3], tell=said.append)
    content = json.loads(memo.path_of("steps", {"machine": "m"}).read_text("utf-8"))
    assert content["question"] == {"machine": "m"}
