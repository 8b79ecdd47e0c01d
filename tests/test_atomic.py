"""What is finished is never lost while something newer takes its place."""

import os
import subprocess
import sys

import pytest

from pufferfish.base import atomic


@pytest.fixture
def places(tmp_path):
    """A finished folder and the newer one that is to take its place."""
    old, new = tmp_path / "model", tmp_path / ".model.new.tmp"
    for folder in (old, new):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    return old, new


def refuse_rename(monkeypatch, error, *, number):
    """Let the rename of this number, counted from one, raise the error."""
    rename, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == number:
            raise error
        rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", replace)


def test_a_folder_takes_the_place_of_the_old_one(places):
    old, new = places
    atomic.replace_folder(old, new)
    assert (old / "name").read_text() == ".model.new.tmp"
    assert [path.name for path in old.parent.iterdir()] == ["model"]


def test_a_folder_takes_an_empty_place(tmp_path):
    (tmp_path / "new").mkdir()
    atomic.replace_folder(tmp_path / "model", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [1, 2])
def test_the_old_folder_stays_where_the_new_one_cannot_be_moved(places, monkeypatch, error, number):
    refuse_rename(monkeypatch, error, number=number)
    old, new = places
    with pytest.raises(type(error)):
        atomic.replace_folder(old, new)
    assert (old / "name").read_text() == "model"
    assert {path.name for path in old.parent.iterdir()} == {"model", ".model.new.tmp"}


def test_a_new_folder_that_is_not_there_leaves_the_old_one(places):
    old, _ = places
    with pytest.raises(FileNotFoundError):
        atomic.replace_folder(old, old.with_name("nothing"))
    assert (old / "name").read_text() == "model"


def test_an_interruption_after_the_last_rename_keeps_the_new_folder(places, monkeypatch):
    old, new = places
    rename = os.replace

    def replace(source, target):
        rename(source, target)
        if source == new:
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        atomic.replace_folder(old, new)
    assert (old / "name").read_text() == ".model.new.tmp"


def test_an_empty_place_stays_empty_where_the_first_folder_cannot_be_moved(tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    refuse_rename(monkeypatch, OSError("the disk is gone"), number=1)
    with pytest.raises(OSError, match="gone"):
        atomic.replace_folder(tmp_path / "model", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def beside_by(path, pid):
    return path.with_name(atomic.beside(path).name.replace(str(os.getpid()), str(pid), 1))


def test_what_killed_processes_left_is_removed_and_the_work_of_living_ones_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    target = tmp_path / "subset"
    of_the_living, of_the_dead, of_a_former_me = (beside_by(target, pid) for pid in (os.getppid(), ended.pid, os.getpid()))
    of_others = [atomic.beside(tmp_path / "model"), tmp_path / "subset", tmp_path / ".subset.by-hand.tmp"]
    for folder in (of_the_living, of_the_dead, of_a_former_me, *of_others):
        folder.mkdir()
        (folder / "content").touch()
    atomic.remove_left_overs(target)
    assert set(tmp_path.iterdir()) == {of_the_living, *of_others}


def test_a_folder_is_in_place_after_the_block_and_not_before(tmp_path):
    target = tmp_path / "artifacts" / "model"
    target.mkdir(parents=True)
    (target / "name").write_text("old")
    left_over = beside_by(target, os.getpid())
    left_over.mkdir()
    with atomic.folder(target) as unfinished:
        (unfinished / "name").write_text("new")
        assert (target / "name").read_text() == "old"
    assert (target / "name").read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_folder_whose_block_is_not_finished_leaves_nothing(tmp_path, error):
    def write():
        with atomic.folder(tmp_path / "model") as unfinished:
            (unfinished / "name").write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert list(tmp_path.iterdir()) == []
