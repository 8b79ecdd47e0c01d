"""The stage train from end to end, in this process: what it finished is never made twice, whatever happens before DVC has taken it."""

import errno
import shutil
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from test_train_loop import write_subset
from toys import train_plan, whole_plan

from pufferfish.base import paths
from pufferfish.base.timing import read_timing
from pufferfish.schema.reports import Outcome
from pufferfish.train import work
from pufferfish.train.step import Trainer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def stage(workplace, monkeypatch):
    """The stage, with a subset and a plan; `run` runs it, `steps` counts the steps that were made, `tracked` holds the artifacts of the row."""
    spec = spec_from_file_location("stage_train", ROOT / "stages" / "train.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    steps, tracked, step = [], [], Trainer.step

    class Tracked:
        tracker = SimpleNamespace(artifact=lambda path, folder="": tracked.append(path))

        def __call__(self, event):
            pass

        def model(self, folder, curve):
            tracked.extend((folder, curve))

    @contextmanager
    def track_training(plan, **about):
        yield Tracked()

    @contextmanager
    def track_result(plan, **about):
        yield Tracked.tracker

    def counted(trainer, batches, *, lr_share):
        steps.append(lr_share)
        return step(trainer, batches, lr_share=lr_share)

    monkeypatch.setattr(module, "ensure_runtime", lambda num_threads: None)
    monkeypatch.setattr(module.StopRequest, "install", lambda: lambda: False)
    monkeypatch.setattr("pufferfish.track.training.track_training", track_training)
    monkeypatch.setattr("pufferfish.track.training.track_result", track_result)
    monkeypatch.setattr(Trainer, "step", counted)
    write_subset(paths.SUBSET)
    whole_plan().save(paths.PLAN)
    return SimpleNamespace(run=module.main, steps=steps, tracked=tracked)


def files():
    """What the stage left, byte for byte."""
    return {path: path.read_bytes() for target in work.LEFT for path in (target.iterdir() if target.is_dir() else [target])}


def empty_outputs():
    """As DVC does before it runs the stage."""
    shutil.rmtree(paths.MODEL, ignore_errors=True)
    for path in (paths.CURVE, work.TIMING):
        path.unlink(missing_ok=True)


def the_work():
    (folder,) = (paths.state() / "work").iterdir()
    return folder


def test_what_is_kept_is_all_that_dvc_takes():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    names = [name if isinstance(name, str) else next(iter(name)) for name in stage["outs"] + stage["plots"]]
    assert sorted(names) == sorted(path.as_posix() for path in work.LEFT)


def test_a_finished_training_that_dvc_did_not_take_is_handed_out_again_bit_for_bit_and_no_step_is_made(stage, capsys):
    stage.run()
    left, trained_s = files(), read_timing(work.TIMING).elapsed_s
    assert len(left) == 7
    empty_outputs()
    stage.steps.clear()
    stage.tracked.clear()
    capsys.readouterr()
    stage.run()
    assert stage.steps == []
    assert "no step was made" in capsys.readouterr().out
    assert {path: content for path, content in files().items() if path != work.TIMING} == {path: left[path] for path in left if path != work.TIMING}
    assert read_timing(work.TIMING).elapsed_s == pytest.approx(trained_s, abs=0.5), "what the stage cost is what the training cost"
    assert read_timing(work.TIMING).end_s <= read_timing(work.TIMING).start_s + trained_s
    assert stage.tracked == [paths.MODEL, paths.CURVE], "the row may have lost them"


def test_the_model_is_kept_as_links_and_edits_of_small_files_reach_nothing_that_is_kept(stage):
    stage.run()
    assert (paths.MODEL / "model.safetensors").samefile(the_work() / "finished" / "model" / "model.safetensors")
    assert not paths.CURVE.samefile(the_work() / "finished" / "curve.csv")


def test_where_there_are_no_links_the_model_is_copied(stage, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(work.os, "link", refuse)
    stage.run()
    left = files()
    empty_outputs()
    stage.run()
    assert files() == {**left, work.TIMING: work.TIMING.read_bytes()}


def test_a_disk_that_is_full_when_the_model_is_put_in_place_costs_no_step(stage, monkeypatch, capsys):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(work, "_link", full)
        with pytest.raises(SystemExit):
            stage.run()
    assert "the disk is full" in capsys.readouterr().err
    assert not paths.MODEL.exists()
    stage.steps.clear()
    stage.run()
    assert stage.steps == []
    assert Outcome.load(paths.MODEL / "outcome.json").num_steps == 12


def test_once_dvc_has_taken_the_model_it_is_trained_anew(stage):
    stage.run()
    before = Outcome.load(paths.MODEL / "outcome.json").run_key
    paths.LOCK.write_text(yaml.safe_dump({"stages": {"train": {"outs": "a"}}}))
    empty_outputs()
    stage.steps.clear()
    stage.run()
    assert len(stage.steps) == 1 + 12
    assert Outcome.load(paths.MODEL / "outcome.json").run_key != before


def test_what_another_plan_finished_is_not_handed_out(stage):
    stage.run()
    other = the_work()
    empty_outputs()
    whole_plan(train=train_plan(num_steps=13)).save(paths.PLAN)
    stage.steps.clear()
    stage.run()
    assert len(stage.steps) == 1 + 13
    assert Outcome.load(paths.MODEL / "outcome.json").num_steps == 13
    assert not other.exists()


def test_an_interrupted_training_of_another_plan_is_told_and_kept_where_one_begins_anew(stage, capsys):
    stage.run()
    assert "another plan" not in capsys.readouterr().out
    folder = the_work().parent
    for name in ("aaaa/step-000000400", "aaaa/step-000000912", "bbbb"):
        (folder / name).mkdir(parents=True)
    whole_plan(train=train_plan(num_steps=13)).save(paths.PLAN)
    stage.run()
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "another plan" in line]
    words = f"an interrupted training of another plan or code is kept in {folder}: aaaa at step 912; `pufferfish doctor --prune` removes it"
    assert told == f"train:       step 0  {words}"
    assert (folder / "aaaa" / "step-000000912").exists()
    (folder / "bbbb" / "step-000000001").mkdir()
    assert "aaaa at step 912, bbbb at step 1; `pufferfish doctor --prune` removes them" in work.told_others(folder / "cccc")
    assert work.told_others(folder / "aaaa") == "", "this one goes on"
    with work.own(folder / "aaaa"):
        assert "aaaa" not in work.told_others(folder / "bbbb2"), "somebody is at it"


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/outcome.json", "curve.csv"])
def test_a_kept_model_that_is_not_whole_is_forgotten_and_trained_again(stage, name):
    stage.run()
    empty_outputs()
    kept = the_work() / "finished" / name
    kept.write_bytes(kept.read_bytes()[:-9]) if kept.parent.name == "model" else kept.unlink()
    stage.steps.clear()
    stage.run()
    assert len(stage.steps) == 1 + 12
    assert Outcome.load(paths.MODEL / "outcome.json").num_steps == 12
    assert work.is_finished(the_work())


def test_a_training_that_cannot_be_saved_leaves_no_finished_one(stage, monkeypatch):
    def full(path, tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    stage.run()
    folder = the_work()
    empty_outputs()
    (folder / "finished" / "curve.csv").unlink()
    monkeypatch.setattr("pufferfish.train.finish.save_tensors", full)
    with pytest.raises(SystemExit):
        stage.run()
    assert not work.is_finished(folder)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []
