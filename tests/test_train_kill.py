"""The real stage as a real process, killed with -9 at random moments and while it saves: the weights are those of a run that nobody disturbed."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train_loop import write_subset
from toys import train_plan, whole_plan

from pufferfish.base.digest import digest_file
from pufferfish.schema.reports import Outcome

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 3000
NUM_KILLS = 10
LONGEST_S = 6.0  # from the start of a process: some are killed before their first step


def workspace(folder, **changes):
    """All that the stage reads."""
    (folder / "artifacts").mkdir(parents=True)
    (folder / "mlruns").mkdir()
    write_subset(folder / "artifacts" / "subset")
    whole_plan(train=train_plan(num_steps=NUM_STEPS, checkpoint_interval_s=0.0, **changes)).save(folder / "artifacts" / "plan.json")
    return folder


def start(folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen([sys.executable, str(ROOT / "stages" / "train.py")], cwd=folder, env=environment, stdout=said, stderr=said)


def weights(folder):
    process = start(folder)
    assert process.wait(timeout=300) == 0, (folder / "said.txt").read_text()[-3000:]
    return digest_file(folder / "artifacts" / "model" / "model.safetensors")


def kill(folder, dice, *, while_saving):
    """Start the stage and kill it; returns whether it was saving."""
    process = start(folder)
    end_s = time.monotonic() + (60.0 if while_saving else dice.uniform(0, LONGEST_S))
    saves_to_see = dice.choice((1, 2, 2))
    is_saving = False
    while time.monotonic() < end_s and saves_to_see:
        now = any(folder.glob(".pufferfish/work/*/.step-*.tmp"))
        if while_saving and now and not is_saving:
            saves_to_see -= 1
        is_saving = now
        time.sleep(0.0005)
    assert process.poll() is None, "it was to be killed, and had ended: " + (folder / "said.txt").read_text()[-3000:]
    process.kill()
    process.wait()
    return any(folder.glob(".pufferfish/work/*/.step-*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "dtype"), [("muon", "bfloat16"), ("adamw", "float32")])
def test_a_run_that_was_killed_ten_times_makes_the_same_weights_bit_for_bit(tmp_path, optimizer, dtype):
    expected = weights(workspace(tmp_path / "quiet", optimizer=optimizer, dtype=dtype))
    folder, dice = workspace(tmp_path / "disturbed", optimizer=optimizer, dtype=dtype), random.Random(0)
    was_saving = [kill(folder, dice, while_saving=number % 2 == 1) for number in range(NUM_KILLS)]
    assert any(was_saving), "no checkpoint was ever half written"
    assert weights(folder) == expected
    outcome = Outcome.load(folder / "artifacts" / "model" / "outcome.json")
    assert outcome.num_steps == NUM_STEPS
    assert outcome.num_resumes >= 1
    assert outcome.warnings == []
    assert list(folder.glob(".pufferfish/work/*/finished")), "the work is done, and kept until the next training starts"
