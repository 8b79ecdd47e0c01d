"""A disk that is full or forbidden, and memory that ran out, are told in three lines, and in the same words everywhere."""

import errno

import pytest
import torch

from pufferfish.base.refusals import NO_MEMORY, REFUSALS
from pufferfish.base.stage import EXIT_USER_ERROR, stage


def failing(error):
    @stage("train")
    def main():
        raise error

    return main


@pytest.mark.parametrize("number", REFUSALS)
def test_a_stage_that_may_not_write_says_how_to_mend_it(number, workplace, capsys):
    with pytest.raises(SystemExit) as exit:
        failing(OSError(number, "refused by the system", "artifacts/model"))()
    assert exit.value.code == EXIT_USER_ERROR
    what, saw, fix = capsys.readouterr().err.splitlines()
    assert what == f"train: {REFUSALS[number].what}"
    assert saw == "  saw:  refused by the system: artifacts/model"
    assert REFUSALS[number].mend in fix
    assert "`dvc repro`" in fix


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"), "CUDA out of memory. Tried to allocate 2.00 GiB."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), "DefaultCPUAllocator"),
    ],
)
def test_memory_that_runs_out_is_the_users_to_mend_in_every_stage(error, seen, workplace, capsys):
    with pytest.raises(SystemExit) as exit:
        failing(error)()
    assert exit.value.code == EXIT_USER_ERROR
    what, saw, fix = capsys.readouterr().err.splitlines()
    assert what == f"train: {NO_MEMORY.what}"
    assert seen in saw
    assert "hardware_probe.memory" in fix
    assert "`dvc repro`" in fix


def test_a_runtime_error_of_ours_keeps_its_traceback(workplace):
    with pytest.raises(RuntimeError, match="shapes"):
        failing(RuntimeError("shapes do not fit"))()


def test_any_other_error_of_the_system_keeps_its_traceback(workplace):
    with pytest.raises(OSError, match="the cable is loose"):
        failing(OSError(errno.EIO, "the cable is loose"))()
