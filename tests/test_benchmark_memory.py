"""The benchmark of memory: its configurations are legal, it really trains, and its table says how far off the prediction is."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "memory.py"


def load_script():
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    return importlib.import_module("memory")


benchmark = load_script()


@pytest.mark.parametrize("name", benchmark.CONFIGURATIONS)
def test_every_configuration_is_a_plan_whose_memory_is_predicted(name):
    model, train = benchmark.plans_of(benchmark.CONFIGURATIONS[name], num_steps=7)
    assert train.tokens_per_step % (train.micro_batch * model.seq_len) == 0
    assert benchmark.predicted(model, train).total > 3e8


def test_a_training_in_a_fresh_process_tells_its_peak(monkeypatch):
    least = benchmark.Configuration(num_layers=1, d_model=8, vocab_size=300, seq_len=16, tokens_per_step=32, micro_tokens=32, dtype="float32")
    code = f"import memory; print(memory.real_bytes(*memory.plans_of(memory.{least}, num_steps=2)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, env={"PYTHONPATH": str(SCRIPT.parents[1])}, capture_output=True, text=True)
    assert 1e8 < int(done.stdout) < 1e9, done.stderr


def test_the_table_has_a_line_for_each_and_sums_up_the_ratios():
    results = [benchmark.Result(f"run {number}", 100_000_000, real) for number, real in enumerate((100_000_000, 98_000_000, 120_000_000))]
    lines = benchmark.table(results).splitlines()
    assert len(lines) == 5
    assert lines[2].split() == ["run", "1", "100.0", "MB", "98.0", "MB", "0.98"]
    assert lines[-1] == "real / predicted: median 1.00, from 0.98 to 1.20; off by 2.0% in the median, by 20.0% at most in 95 % of them"


def test_an_unknown_name_is_told():
    done = subprocess.run([sys.executable, str(SCRIPT), "--only", "nothing"], env={"PYTHONPATH": str(SCRIPT.parents[1])}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no configuration is called like nothing" in done.stderr
