"""An interrupted training loses nothing: checkpoints are whole or passed over, a full disk takes none away, one process owns the work."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
import yaml
from toys import model_plan, train_plan, whole_plan

from pufferfish.base.errors import UserError
from pufferfish.schema.reports import Shard, Subset
from pufferfish.train import checkpoint
from pufferfish.train.record import Record
from pufferfish.train.work import finishing, has_checkpoint, own, remove_finished, run_key, work_folder, work_identity

TENSORS = {
    "weight.a": torch.randn(7, 5),
    "odd": torch.tensor([float("-0.0"), 1e-45, 3.4e38]),
    "half": torch.randn(3, dtype=torch.bfloat16),
    "scalar": torch.tensor(5.0),
}
PROGRESS = {"u": 0.1 + 0.2, "num_samples": 2**53 - 1, "record": {"u": [0.0, 1 / 3]}, "warnings": ["é"]}


def save(folder, step, tensors=TENSORS):
    return checkpoint.save(folder, tensors, {"step": step, **PROGRESS})


def steps_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    num_bytes = save(tmp_path, 3)
    found, complaints = checkpoint.newest(tmp_path)
    tensors = checkpoint.load_tensors(found)
    assert complaints == []
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)) for name, tensor in TENSORS.items())
    assert checkpoint.load_progress(found) == {"step": 3, **PROGRESS}
    assert num_bytes == sum((found / name).stat().st_size for name in ("state.safetensors", "progress.json"))


def test_where_nothing_was_saved_there_is_nothing(tmp_path):
    assert checkpoint.newest(tmp_path) == (None, [])
    assert checkpoint.newest(tmp_path / "absent") == (None, [])
    assert not has_checkpoint(tmp_path)


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 9, 10, 100):
        save(tmp_path, step)
    assert steps_in(tmp_path) == ["step-000000010", "step-000000100"]
    assert checkpoint.newest(tmp_path)[0].name == "step-000000100"


def test_the_same_step_can_be_saved_again(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 5, {"weight.a": torch.ones(2)})
    assert steps_in(tmp_path) == ["step-000000005"]
    assert checkpoint.load_tensors(checkpoint.newest(tmp_path)[0]).keys() == {"weight.a"}


def cut_short(folder):
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_bit(folder):
    content = bytearray((folder / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "state.safetensors").write_bytes(content)


def edit_progress(folder):
    (folder / "progress.json").write_text((folder / "progress.json").read_text().replace('"step": 2', '"step": 7'))


DAMAGES = {
    "cut short": (cut_short, "state.safetensors does not match"),
    "a flipped bit": (flip_a_bit, "state.safetensors does not match"),
    "an edited number": (edit_progress, "progress.json does not match"),
    "a lost file": (lambda folder: (folder / "progress.json").unlink(), "progress.json is missing"),
    "a lost manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    "an empty manifest": (lambda folder: (folder / "manifest.json").write_text(""), "manifest.json"),
    "a manifest of nothing": (lambda folder: (folder / "manifest.json").write_text("{}"), "does not match"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, damage, said):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / "step-000000002")
    found, complaints = checkpoint.newest(tmp_path)
    assert found.name == "step-000000001"
    assert len(complaints) == 1
    assert "step-000000002 is damaged" in complaints[0]
    assert said in complaints[0]


def test_damage_everywhere_is_said_too(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        flip_a_bit(tmp_path / f"step-00000000{step}")
    found, complaints = checkpoint.newest(tmp_path)
    assert found is None
    assert len(complaints) == 2
    assert has_checkpoint(tmp_path)


def test_a_damaged_later_checkpoint_takes_no_place_from_a_good_one(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    flip_a_bit(tmp_path / "step-000000020")
    save(tmp_path, 15)  # the training went on from 10
    assert steps_in(tmp_path) == ["step-000000010", "step-000000015"]


@contextmanager
def files_of_at_most(num_bytes):
    """Writing more fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_raises_oserror_and_leaves_the_last_good_checkpoint(tmp_path):
    save(tmp_path, 1)
    with files_of_at_most(2000), pytest.raises(OSError, match="too large"):
        save(tmp_path, 2, {"weight.a": torch.randn(10_000)})
    assert steps_in(tmp_path) == ["step-000000001"], "no half checkpoint and nothing beside it"
    assert checkpoint.newest(tmp_path)[1] == []


def test_a_process_killed_while_saving_leaves_nothing_behind_for_long(tmp_path):
    save(tmp_path, 1)
    left_over = tmp_path / ".step-000000002.4711-abcd.tmp"
    left_over.mkdir()
    (left_over / "state.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path)[0].name == "step-000000001"
    save(tmp_path, 2)
    assert steps_in(tmp_path) == ["step-000000001", "step-000000002"]


def test_the_record_of_a_run_comes_back_bit_for_bit(tmp_path):
    odd = [0.0, 1 / 3, 0.1 + 0.2, 5e-324, 1 - 2**-53]
    record = Record(u=odd, micro_batch=[6, 6, 3, 3, 1], curve=[{"val_bpb": 1.23456, "step": 4}])
    record.loss.extend(number / 7 for number in range(99))
    checkpoint.save(tmp_path, {**TENSORS, **record.tensors()}, {"step": 5, "record": record.as_progress()})
    found, _ = checkpoint.newest(tmp_path)
    assert Record.restored(checkpoint.load_tensors(found), checkpoint.load_progress(found)["record"]) == record
    assert list(record.loss) == [number / 7 for number in range(49, 99)]


def test_what_a_checkpoint_writes_as_text_does_not_grow_with_the_steps(tmp_path):
    sizes = []
    for num_steps in (100, 100_000):
        record = Record(u=[0.123456789] * num_steps, micro_batch=[3] * num_steps)
        checkpoint.save(tmp_path, record.tensors(), {"step": num_steps, "record": record.as_progress()})
        sizes.append((tmp_path / f"step-{num_steps:09d}" / "progress.json").stat().st_size)
    assert sizes[1] < sizes[0] + 10


# --- the work folder


def subset(corpus="c0"):
    shard = Shard(file="train.bin", sha256="0" * 64, num_tokens=5, num_documents=1, num_bytes=9)
    rest = {"vocab_size": 97, "separator_id": 0, "token_dtype": "uint16", "tokenizer_sha256": "1" * 64, "corpus_train_bytes": 9, "bytes_per_token": 1.8}
    return Subset(corpus=corpus, train=shard, validation=shard, validation_text_sha256={}, **rest)


def test_the_work_is_named_after_all_that_its_checkpoints_depend_on():
    plan = whole_plan()
    same = work_identity(plan, subset())
    assert work_identity(whole_plan(), subset()) == same
    others = [
        work_identity(whole_plan(model_plan(num_layers=4)), subset()),
        work_identity(whole_plan(train=train_plan(matrix_lr=0.03)), subset()),
        work_identity(plan.model_copy(update={"budget": plan.budget.model_copy(update={"total_s": 54.0})}), subset()),
        work_identity(plan, subset("c1")),
    ]
    assert len({same, *others}) == 5
    why = plan.why.model_copy(update={"reasons": ["another word"]})
    assert work_identity(plan.model_copy(update={"why": why}), subset()) == same, "what is for people changes nothing"


def test_the_work_lies_outside_of_what_is_versioned(workplace):
    folder = work_folder(whole_plan(), subset())
    assert folder.parent == workplace / ".pufferfish" / "work"


def test_a_second_trainer_on_the_same_work_is_refused_by_name(tmp_path):
    with own(tmp_path), pytest.raises(UserError, match="already running") as error, own(tmp_path):
        pass
    assert f"process {os.getpid()} on " in error.value.saw
    with own(tmp_path):
        pass  # the first one has ended


OWNING = """
import pathlib, sys, time
from pufferfish.train.work import own
with own(pathlib.Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_dead_owner_is_taken_over(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", OWNING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "owned\n"
        with pytest.raises(UserError) as error, own(tmp_path):
            pass
        assert f"process {other.pid} on " in error.value.saw
        other.send_signal(signal.SIGKILL)
    with own(tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("kept", ["step-000000003", "finished"])
def test_the_name_of_the_row_is_kept_where_a_training_goes_on_or_has_ended_and_else_made_anew(tmp_path, kept):
    killed_early, first = run_key(tmp_path), run_key(tmp_path)
    assert len(first) == 32
    assert first != killed_early
    (tmp_path / kept).mkdir()
    assert run_key(tmp_path) == run_key(tmp_path) == first


def test_finished_work_is_kept_until_dvc_has_taken_the_model_and_then_training_is_anew(workplace):
    def lock(**stages):
        (workplace / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))

    def left():
        remove_finished(but=mine)
        return [folder.exists() for folder in (mine, other, unfinished)]

    mine, other, unfinished = (workplace / "work" / name for name in ("mine", "other", "unfinished"))
    for folder in (mine, other, unfinished):
        folder.mkdir(parents=True)
    lock(plan={"outs": "a"}, train={"outs": "a"})
    for folder in (mine, other):
        with finishing(folder):
            pass
    with own(other):
        assert left() == [True, True, True], "its process has still to put the model in place"
    assert left() == [True, False, True]
    lock(plan={"outs": "b"}, train={"outs": "a"})
    assert left() == [True, False, True], "other stages change the file too"
    (workplace / "dvc.lock").unlink()
    assert left() == [True, False, True]
    lock(plan={"outs": "b"}, train={"outs": "b"})
    assert left() == [False, False, True]
