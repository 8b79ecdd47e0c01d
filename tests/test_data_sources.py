"""Where text comes from, and what is said when it is not text."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pufferfish.base import registry
from pufferfish.base.errors import UserError
from pufferfish.data.corpus import MIN_BYTES, describe_text, inspect_corpus
from pufferfish.data.sources import text as text_source
from pufferfish.data.sources.files import read_lines
from pufferfish.data.sources.stdlib import StdlibSource
from pufferfish.data.sources.text import TextSource
from pufferfish.schema.params import DataParams

PROSE = "All happy families are alike; each unhappy family is unhappy in its own way.\n" * 40


@pytest.fixture(autouse=True)
def in_own_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def write(path: str, content: str | bytes) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_the_standard_library_is_real_text_without_tests_and_installed_packages():
    documents = dict(StdlibSource().documents())
    names = list(documents)
    assert documents["textwrap.py"].startswith('"""Text wrapping')
    assert {"json/decoder.py", "asyncio/base_events.py"} <= set(names)
    parts = {part for name in names for part in Path(name).parts}
    assert parts.isdisjoint({"site-packages", "test", "tests", "idle_test", "lib2to3"})
    assert sum(len(text.encode()) for text in documents.values()) > 8_000_000
    assert names == [name for name, _ in StdlibSource().documents()]


def test_a_python_without_library_sources_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(UserError, match="without its library's source text"):
        StdlibSource().files()


def test_a_file_holds_one_document_per_line_and_blank_lines_are_none():
    write("lines.txt", b"\xef\xbb\xbffirst\r\n\n  \nsecond \xf0\x9f\x90\xa1\nlast without an end")
    assert list(TextSource("lines.txt").documents()) == [
        ("lines.txt, byte 0", "first"),
        ("lines.txt, byte 14", "second 🐡"),
        ("lines.txt, byte 26", "last without an end"),
    ]


def test_a_folder_holds_one_document_per_file_sorted_and_as_it_is():
    write("texts/b.md", b"\xef\xbb\xbfwith a mark\r\nand CRLF\r\n")
    write("texts/a/z.txt", "deeper")
    write("texts/blank.txt", " \n")
    write("texts/.hidden", "no")
    write("texts/.git/config", "no")
    os.mkfifo("texts/pipe")
    assert list(TextSource("texts").documents()) == [("a/z.txt", "deeper"), ("b.md", "with a mark\r\nand CRLF\r\n")]


def test_links_are_followed_but_not_in_circles():
    write("texts/inner/a.txt", "one")
    write("elsewhere/b.txt", "two")
    os.symlink("..", "texts/inner/up")
    os.symlink("../elsewhere", "texts/other")
    assert [text for _, text in TextSource("texts").documents()] == ["one", "two"]


def test_a_relative_path_starts_at_the_checkout_when_dvc_works_in_a_copy(tmp_path, monkeypatch):
    write("texts/a.txt", "one")
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    assert [text for _, text in TextSource("texts").documents()] == ["one"]


def test_a_part_of_a_long_file_is_whole_lines_from_everywhere(monkeypatch):
    monkeypatch.setattr("pufferfish.data.sources.text.STRETCH_BYTES", 500)
    write("lines.txt", b"\xef\xbb\xbf" + b"".join(b"line number %d\n" % number for number in range(3000)))
    whole = TextSource("lines.txt")
    part = list(whole.part(8_000, seed=0).documents())
    assert set(part) < set(whole.documents())
    assert len(set(part)) == len(part)
    assert 7_000 < sum(len(text) + 1 for _, text in part) < 9_000
    assert {int(text.split()[-1]) // 500 for _, text in part} == set(range(6))
    assert part == list(whole.part(8_000, seed=0).documents()) != list(whole.part(8_000, seed=1).documents())
    assert list(whole.part(10**6, seed=0).documents()) == list(whole.documents())


@pytest.mark.parametrize("between", ["\n", "\n\n", "\n \n\n\n", "\nshort\n"])
def test_a_part_of_a_file_of_very_long_lines_is_some_of_them(between, monkeypatch):
    monkeypatch.setattr("pufferfish.data.sources.text.STRETCH_BYTES", 500)
    write("lines.txt", between.join(f"line {number} " + "word " * 4_000 for number in range(20)) + "\n")
    whole = list(TextSource("lines.txt").documents())
    drawn = set()
    for seed in range(20):
        part = list(TextSource("lines.txt").part(45_000, seed).documents())
        long = [text for _, text in part if text != "short"]
        assert [document for document in whole if document in part] == part
        assert 2 <= len(long) <= 4
        drawn.update(long)
    assert len(drawn) > 15


@pytest.mark.parametrize("first", [10, 20_000, 200_000])
def test_of_two_lines_of_any_length_both_are_drawn_and_of_one_line_it(first, monkeypatch):
    monkeypatch.setattr("pufferfish.data.sources.text.STRETCH_BYTES", 500)
    write("one.txt", "x" * 200_000)
    write("two.txt", "x" * first + "\n" + "y" * (210_000 - first) + "\n")
    found, read = [], []
    find_lines = text_source.find_lines
    monkeypatch.setattr(text_source, "find_lines", lambda path, start, num_bytes: read.append(start) or find_lines(path, start, num_bytes))
    for seed in range(9):
        for name in ("one.txt", "two.txt"):
            read.clear()
            found.append([len(text) for _, text in TextSource(name).part(20_000, seed).documents()])
            assert len(read) < 20  # of 40 starts, all in the same few lines
    assert found == [[200_000], [first, 210_000 - first]] * 9


def test_neighbouring_stretches_share_no_line_and_lose_none():
    write("lines.txt", b"\xef\xbb\xbfone\r\n\ntwo\nthree\nfour")
    whole = list(read_lines(Path("lines.txt")))
    assert [text for _, text in whole] == ["one", "", "two", "three", "four"]
    for cut in range(1, 30):
        assert list(read_lines(Path("lines.txt"), 0, cut)) + list(read_lines(Path("lines.txt"), cut)) == whole


def test_a_part_of_a_folder_is_some_of_its_files():
    for number in range(60):
        write(f"texts/{number:02d}", f"text number {number}")
    whole = TextSource("texts")
    part = list(whole.part(200, seed=0).documents())
    assert 10 < len(part) < 20
    assert part == sorted(part)
    assert set(part) < set(whole.documents())
    assert part == list(whole.part(200, seed=0).documents()) != list(whole.part(200, seed=1).documents())


LONG = {"STRETCH_BYTES": 2_000, "DOCUMENT_BYTES": 500}


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_of_a_long_file_in_a_folder_stretches_are_documents_that_lose_nothing(end, monkeypatch):
    for name, value in LONG.items():
        monkeypatch.setattr(text_source, name, value)
    monkeypatch.setattr("pufferfish.data.sources.files.LOOK_BYTES", 250)
    text = "".join(f"🐡 line {number}" + "é" * (number % 90) + end for number in range(600))
    write("texts/long.txt", b"\xef\xbb\xbf" + text.encode())
    write("texts/short.txt", "short" * 399)
    write("texts/edge.txt", "edge" * 500)
    documents = list(TextSource("texts").documents())
    longs = [text for name, text in documents if name.startswith("long")]
    assert "".join(longs) == text
    assert max(len(text.encode()) for text in longs) <= 750
    assert end == " " or all(text.endswith(end) for text in longs)
    assert [text for name, text in documents if name.startswith("edge")] == ["edge" * 125] * 4
    assert ("short.txt", "short" * 399) in documents


@pytest.mark.parametrize("count", [2, 20])
def test_a_part_of_a_folder_of_large_files_is_as_large_as_wished_for_and_from_all_of_them(count, monkeypatch):
    for name, value in LONG.items():
        monkeypatch.setattr(text_source, name, value)
    for number in range(count):
        write(f"texts/{number:02d}", "".join(f"file {number} line {line}\n" for line in range(200_000 // count)))
    whole = TextSource("texts")
    part = list(whole.part(200_000, seed=0).documents())
    assert 190_000 < sum(len(text) for _, text in part) < 210_000
    assert set(part) < set(whole.documents()), "where more is drawn, the same documents are found again"
    assert {int(text.split()[1]) for _, text in part} == set(range(count))
    assert part == list(whole.part(200_000, seed=0).documents()) != list(whole.part(200_000, seed=1).documents())


def test_a_long_file_that_is_not_text_is_refused_in_a_folder_too(monkeypatch):
    for name, value in LONG.items():
        monkeypatch.setattr(text_source, name, value)
    write("t/a.txt", PROSE.encode() + b"caf\xe9 noir\n")
    with pytest.raises(UserError, match="not UTF-8"):
        list(TextSource("t").documents())


def test_short_documents_are_seen_by_a_look_at_the_text():
    write("short.txt", "".join(f"{number} words\n" for number in range(300)))
    write("long.txt", "".join(f"{number} words".ljust(200) + "\n" for number in range(300)))
    for number in range(3):
        write(f"small/{number}", "words " * 500)
        write(f"large/{number}", "words " * 900)
    found = {path: inspect_corpus(DataParams(source="text", path=path)).has_short_documents for path in ("short.txt", "long.txt")}
    assert found == {"short.txt": True, "long.txt": False}
    assert [TextSource(path).has_short_documents for path in ("small", "large")] == [True, False]
    assert not StdlibSource().has_short_documents


def test_files_of_the_validation_text_are_no_part_of_the_training_text():
    """A file named alone is one document per line, in a folder one document: the documents would not be found equal."""
    write("data/train.txt", PROSE)
    write("data/validation.txt", PROSE[:500])
    os.symlink("../data/validation.txt", "data/link.txt")
    apart, held = (DataParams(source="text", path=path, validation="data/validation.txt") for path in ("data/train.txt", "data"))
    alone, beside = inspect_corpus(apart), inspect_corpus(held)
    assert (beside.content, beside.num_bytes, beside.num_files) == (alone.content, alone.num_bytes, 1)
    assert beside.validation_content == alone.validation_content


def test_of_a_part_of_a_folder_the_validation_text_stays_left_out():
    for number in range(60):
        write(f"texts/{number:02d}", f"text number {number}")
    rest = TextSource("texts").without(TextSource("texts/07"))
    whole = list(rest.part(10**6, seed=0).documents())
    assert {name for name, _ in whole} == {f"{number:02d}" for number in range(60)} - {"07"}
    for seed in range(9):
        part = rest.part(700, seed)
        assert set(part.documents()) < set(whole)
        assert part.num_left_out == 1


def test_a_module_that_is_measured_on_is_not_learned_from():
    import textwrap

    rest = StdlibSource().without(TextSource(textwrap.__file__))
    assert "textwrap.py" not in dict(rest.documents())
    assert len(rest.files()) == len(StdlibSource().files()) - 1


BAD = {
    "missing": ({}, {"path": "nowhere.txt"}, "no such text", "data.path: nowhere.txt"),
    "missing user": ({}, {"path": "~no-such-user/text"}, "no such text", "data.path: ~no-such-user/text"),
    "missing user of own validation": ({"t": PROSE.encode()}, {"path": "t", "validation": "~no-such-user"}, "no such text", "data.validation: ~no-such-user"),
    "empty file": ({"t": b""}, {"path": "t"}, "empty", "data.path: t"),
    "blank file": ({"t": b" \n\r\n\t"}, {"path": "t"}, "blank", "data.path: t"),
    "empty folder": ({"t/.hidden": b"x" * 5000}, {"path": "t"}, "holds no text", "no files"),
    "folder of empty files": ({"t/a": b"", "t/b": b""}, {"path": "t"}, "holds no text", "2 files, all empty"),
    "single line": ({"t": PROSE.replace("\n", " ").encode()}, {"path": "t"}, "cannot be split", "a single document"),
    "single file in a folder": ({"t/a": PROSE.encode()}, {"path": "t"}, "cannot be split", "a single document"),
    "only copies": ({"t/a": PROSE.encode(), "t/b": PROSE.encode()}, {"path": "t"}, "cannot be split", "only copies"),
    "too little": ({"t": b"one\ntwo\n"}, {"path": "t"}, "too little", "8 B in 1 file"),
    "binary": ({"t/a": PROSE.encode(), "t/b.png": b"\x89PNG\n"[1:] + b"\x00\x01"}, {"path": "t"}, "binary", "byte offset 4, line 2      (t/b.png)"),
    "binary far in": ({"t": PROSE.encode() * 600 + b"\n\0"}, {"path": "t"}, "binary", f"byte offset {len(PROSE) * 600 + 1}, line 24002"),
    "latin-1": ({"t": PROSE.encode() + b"caf\xe9 noir\n"}, {"path": "t"}, "not UTF-8", f"byte 0xe9 at byte offset {len(PROSE) + 3}, line 41"),
    "cut character": ({"t": PROSE.encode() + b"\xf0\x9f"}, {"path": "t"}, "not UTF-8", f"byte 0xf0 at byte offset {len(PROSE)}, line 41"),
    "utf-16": ({"t": PROSE.encode("utf-16")}, {"path": "t"}, "UTF-16", "byte order mark"),
    "divided without validation": ({"t/train/a": PROSE.encode(), "t/validation/b": b""}, {"path": "t"}, "holds no text", "data.validation: t/validation"),
    "own validation missing": ({"t": PROSE.encode()}, {"path": "t", "validation": "v"}, "no such text", "data.validation: v"),
    "own validation is all": ({"t/a": PROSE.encode()}, {"path": "t", "validation": "t/a"}, "nothing is left", "t/a"),
    "own validation is the text": ({"t": PROSE.encode()}, {"path": "t", "validation": "t"}, "nothing is left", "t is"),
    "own validation too little": ({"t": PROSE.encode(), "v": b"so short\n"}, {"path": "t", "validation": "v"}, "too little to measure", "9 bytes"),
    "own validation binary": ({"t": PROSE.encode(), "v": b"\0" * 500}, {"path": "t", "validation": "v"}, "binary", "(v)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_text_is_refused_with_its_place_and_a_way_out(case):
    files, settings, what, saw = BAD[case]
    for path, content in files.items():
        write(path, content)
    with pytest.raises(UserError) as error:
        inspect_corpus(DataParams(source="text", **settings))
    assert what in error.value.what
    assert saw.replace("(t", f"({Path.cwd()}/t") in error.value.saw or saw in error.value.saw
    assert error.value.fix


def test_the_documents_themselves_refuse_what_the_inspection_refuses():
    for content in (b"good\n\0bad", b"good\nb\xffd"):
        write("t", content)
        write("folder/t", content)
        for path in ("t", "folder"):
            with pytest.raises(UserError, match=r"binary|UTF-8"):
                list(TextSource(path).documents())


def test_a_link_that_leads_nowhere_is_named():
    write("t/a.txt", PROSE)
    os.symlink("nowhere", "t/b.txt")
    with pytest.raises(UserError) as error:
        inspect_corpus(DataParams(source="text", path="t"))
    assert "t/b.txt" in error.value.saw


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file_is_named():
    write("t/a.txt", PROSE).chmod(0)
    with pytest.raises(UserError) as error:
        inspect_corpus(DataParams(source="text", path="t"))
    assert "t/a.txt" in error.value.saw


def test_the_same_text_has_the_same_identity_and_any_change_another():
    write("t/a.txt", PROSE)
    write("t/b.txt", PROSE + "another end")
    data = DataParams(source="text", path="t")
    first = inspect_corpus(data)
    assert first.num_bytes == 2 * len(PROSE) + 11
    assert first.num_files == 2
    assert inspect_corpus(data) == first
    Path("t").rename("moved")
    assert inspect_corpus(DataParams(source="text", path="moved")).content == first.content
    write("moved/b.txt", PROSE + "another END")
    assert inspect_corpus(DataParams(source="text", path="moved")).content != first.content


def test_unchanged_files_are_not_read_again(monkeypatch):
    write("t/a.txt", PROSE)
    write("t/b.txt", PROSE + "more")
    first = inspect_corpus(DataParams(source="text", path="t"))

    def refuse(files):
        raise AssertionError("read again")

    monkeypatch.setattr("pufferfish.data.corpus.digest_texts", refuse)
    assert inspect_corpus(DataParams(source="text", path="t")) == first
    write("t/c.txt", "new")
    with pytest.raises(AssertionError, match="read again"):
        inspect_corpus(DataParams(source="text", path="t"))


def test_a_broken_memory_is_written_anew():
    write("t", PROSE + "another line")
    write(".pufferfish/corpus.json", "{broken")
    first = inspect_corpus(DataParams(source="text", path="t"))
    write(".pufferfish/corpus.json", "[]")
    assert inspect_corpus(DataParams(source="text", path="t")) == first


def test_own_validation_text_allows_a_single_document():
    write("t/a.txt", PROSE)
    write("v.txt", PROSE[:300])
    corpus = inspect_corpus(DataParams(source="text", path="t", validation="v.txt"))
    assert (corpus.validation_path, corpus.validation_bytes) == ("v.txt", 300)
    assert len(PROSE) > MIN_BYTES


def write_divided(folder: str) -> None:
    write(f"{folder}/train/a.txt", PROSE)
    write(f"{folder}/train/more/b.txt", PROSE + "more")
    write(f"{folder}/validation/c.txt", PROSE[:300])


@pytest.mark.parametrize("written", ["texts", "texts/", "./texts", "{}/texts"])
def test_a_folder_of_just_train_and_validation_is_read_as_if_both_were_pinned(written):
    write_divided("texts")
    write("texts/.git/config", "hidden")
    folder = written.format(Path.cwd())
    path, validation = str(Path(folder, "train")), str(Path(folder, "validation"))
    data, pinned = DataParams(source="text", path=folder), DataParams(source="text", path=path, validation=validation)
    corpus = inspect_corpus(data)
    assert corpus == inspect_corpus(pinned)
    assert (corpus.path, corpus.validation_path, corpus.num_files) == (path, validation, 2)
    [line] = describe_text(data, corpus)
    assert f"learns from {path}, measures on {validation}" in line
    assert describe_text(pinned, corpus) == []


def test_a_divided_text_is_found_from_the_copy_that_dvc_works_in(tmp_path, monkeypatch):
    write_divided("texts")
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    assert inspect_corpus(DataParams(source="text", path="texts")).validation_path == "texts/validation"


@pytest.mark.parametrize("beside", ["README.md", "test/d.txt"])
def test_a_folder_with_anything_else_is_one_text(beside):
    write_divided("texts")
    write(f"texts/{beside}", "something else")
    data = DataParams(source="text", path="texts")
    corpus = inspect_corpus(data)
    assert (corpus.path, corpus.validation_path, corpus.num_files) == ("texts", "", 4)
    assert describe_text(data, corpus) == []


def test_files_called_train_and_validation_are_two_documents():
    write("texts/train", PROSE)
    write("texts/validation", PROSE[:300])
    corpus = inspect_corpus(DataParams(source="text", path="texts"))
    assert (corpus.path, corpus.validation_path, corpus.num_files) == ("texts", "", 2)


def test_a_pinned_validation_text_is_honoured_beside_a_divided_one():
    write_divided("texts")
    write("own.txt", PROSE[:200])
    corpus = inspect_corpus(DataParams(source="text", path="texts", validation="own.txt"))
    assert (corpus.path, corpus.validation_path, corpus.num_files) == ("texts", "own.txt", 3)


def test_looking_at_the_text_imports_no_heavy_library():
    code = "import sys; from pufferfish.data import corpus; corpus.open_source('stdlib', '').files(); corpus.open_validation('x')"
    code += "; print([name for name in ('numpy', 'torch', 'tokenizers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_menu_leads_to_the_sources():
    assert registry.load("source", "stdlib") is StdlibSource
    assert registry.load("source", "text") is TextSource
