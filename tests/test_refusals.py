"""A disk that is full or forbidden is told in three lines, and in the same words everywhere."""

import errno

import pytest

from pufferfish.base.refusals import REFUSALS
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


def test_any_other_error_of_the_system_keeps_its_traceback(workplace):
    with pytest.raises(OSError, match="the cable is loose"):
        failing(OSError(errno.EIO, "the cable is loose"))()
