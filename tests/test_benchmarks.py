"""The benchmark of whole pipelines tells what happened, shown with made-up runs."""

import importlib
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "deadline.py"
HELD_BYTES = 64_000_000
TRAINING = """
import sys, time
from pathlib import Path
while not Path("enough").exists():
    Path("ticks").open("a").write(".")
    time.sleep(0.01)
"""


def load_script():
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    return importlib.import_module("deadline")


deadline = load_script()


def made_up(**changes):
    run = {"budget_s": 40.0, "spent_s": 39.0, "stages_s": {"hardware-probe": 4.0, "train": 21.5}, "val_bpb": 2.0}
    forecast = {"forecast_bpb": 2.1, "forecast_low_bpb": 1.95, "forecast_high_bpb": 2.3}
    cost = {"step_s": 0.11, "forecast_step_s": 0.1, "peak_memory_bytes": 600_000_000, "forecast_memory_bytes": 800_000_000}
    cost["final_lr_share"] = 0.021
    return deadline.Run(**{"corpus": "/texts/rhymes", "disturbance": "none", "lookup": "none", **run, **forecast, **cost, **changes})


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_folder_with_both_sides_has_its_own_text_to_measure_on(tmp_path):
    def data(corpus):
        return deadline.pipeline.settings_for("60s", str(corpus))["data"]

    assert data("stdlib") == {"source": "stdlib", "path": ""}
    assert data(tmp_path) == {"source": "text", "path": str(tmp_path)}
    for side in ("train", "validation"):
        (tmp_path / side).mkdir()
    assert data(tmp_path) == {"source": "text", "path": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}


def test_a_run_is_read_from_what_the_stages_left(tmp_path):
    stamps = {"train": (14.5, 36.0), "hardware-probe": (10.0, 14.0), "export": (36.5, 49.0)}
    for name, (start_s, end_s) in stamps.items():
        write_json(tmp_path / f"artifacts/timing/{name}.json", {"start_s": start_s, "end_s": end_s, "elapsed_s": end_s - start_s})
    forecast = {"val_bpb": 2.1, "val_bpb_low": 1.95, "val_bpb_high": 2.3, "step_s": 0.1, "peak_memory_bytes": 800_000_000}
    write_json(tmp_path / "artifacts/plan.json", {"forecast": forecast, "model": {"lookup": "none"}})
    write_json(tmp_path / "artifacts/model/outcome.json", {"median_step_s": 0.11, "peak_memory_bytes": 600_000_000, "final_lr_share": 0.021})
    write_json(tmp_path / "artifacts/evaluation.json", {"val_bpb": 2.0})
    run = deadline.read_run(tmp_path, 40.0, corpus="/texts/rhymes", disturbance="none")
    assert run == made_up(stages_s={"hardware-probe": 4.0, "train": 21.5, "export": 12.5})
    assert list(run.stages_s) == ["hardware-probe", "train", "export"]


def test_every_run_has_its_line_with_the_plan_beside_what_was_found():
    head, line, *_ = deadline.table([made_up()]).splitlines()
    found = "40.0 s 39.00 s -1.00 s 97.5% 2.0000 2.1000 1.9500 2.3000 110.0 ms 100.0 ms 600.0 MB 800.0 MB rhymes: hardware-probe 4.0, train 21.5"
    assert " ".join(line.split()) == found
    assert [head.index(word) + len(word) for word in ("spent", "late", "used")] == [line.index(word) + len(word) for word in ("39.00 s", "-1.00 s", "97.5%")]


def test_a_table_beside_the_model_is_told():
    assert "rhymes with a value table: hardware-probe" in deadline.table([made_up(lookup="value")])


def test_every_budget_is_summed_up_over_its_own_runs():
    runs = [
        made_up(),
        made_up(spent_s=40.4, val_bpb=1.75, step_s=0.09),
        made_up(spent_s=38.0, val_bpb=2.0, peak_memory_bytes=880_000_000),
        made_up(budget_s=80.0, spent_s=80.0, val_bpb=2.1),
    ]
    lines = deadline.table(runs).splitlines()
    assert len(lines) == 1 + 3 + 3 + 1 + 3
    assert [line.strip() for line in lines[4:7]] == [
        "used: mean 97.8%, least 95.0%, latest +0.40 s (+1.00%); last learning rate at most 2.1% of the peak",
        "quality: median 2.0000 bits per byte; forecast off by 5.0% in the median, 20.0% at worst, its 80 % interval held 2 of 3",
        "found / planned: step time 1.10 (0.90 to 1.10), peak memory 0.75 (0.75 to 1.10)",
    ]
    assert lines[8].strip() == "used: mean 100.0%, least 100.0%, latest +0.00 s (+0.00%); last learning rate at most 2.1% of the peak"
    assert "off by 0.0% in the median, 0.0% at worst, its 80 % interval held 1 of 1" in lines[9]


def test_bits_per_byte_of_different_texts_are_not_mixed():
    runs = [made_up(val_bpb=each, corpus=corpus) for each, corpus in ((2.0, "/texts/rhymes"), (0.9, "stdlib"), (2.2, "/texts/rhymes"), (1.0, "stdlib"))]
    quality = deadline.budget_lines(runs)[1]
    assert quality.startswith("quality: median 2.1000 (rhymes), 0.9500 (stdlib) bits per byte; forecast off by")


@pytest.fixture
def pipeline(tmp_path):
    """A folder with a made-up train stage, and the command that runs it as DVC does: in a shell, below another process."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "train.py").write_text(TRAINING)
    inner = f"import subprocess; subprocess.run('{sys.executable} stages/train.py; true', shell=True)"
    return tmp_path, [sys.executable, "-c", inner]


def end(folder):
    (folder / "enough").touch()


def ticks(folder):
    return (folder / "ticks").stat().st_size if (folder / "ticks").exists() else 0


def wait_for(claim):
    end_s = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_the_training_stands_still_and_goes_on(pipeline, monkeypatch):
    folder, command = pipeline
    seen = []

    def look(elapsed_s):  # instead of sleeping, at once
        if elapsed_s == deadline.STOP_S:
            training = deadline.find_training(psutil.Process(process.pid))
            wait_for(lambda: training.status() == psutil.STATUS_STOPPED)
            seen.append(training.cmdline())

    with subprocess.Popen(command, cwd=folder) as process:
        monkeypatch.setattr(deadline.time, "sleep", look)
        with deadline.training_stopped(psutil.Process(process.pid), folder):
            monkeypatch.undo()
            before = ticks(folder)
            wait_for(lambda: ticks(folder) > before)
            end(folder)
    assert seen == [[sys.executable, "stages/train.py"]]
    assert process.returncode == 0


def test_a_pipeline_that_never_trains_is_not_waited_for_forever():
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process, pytest.raises(LookupError, match="over before"):
        deadline.find_training(psutil.Process(process.pid))


@pytest.mark.parametrize(("disturbance", "num_processes"), [("none", 0), ("core", 1), ("disk", 1), ("memory", 1)])
def test_a_disturbance_lasts_until_the_end_and_no_longer(tmp_path, disturbance, num_processes, monkeypatch):
    monkeypatch.setattr(deadline, "available_memory_bytes", lambda: deadline.LEFT_BYTES + HELD_BYTES)
    me = psutil.Process()
    before = len(me.children())
    with deadline.DISTURBANCES[disturbance](me, tmp_path):
        assert len(me.children()) - before == num_processes
        if disturbance == "disk":
            wait_for(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
        if disturbance == "memory":
            wait_for(lambda: me.children()[-1].memory_info().rss > HELD_BYTES)
    assert len(me.children()) == before


def test_a_pipeline_is_disturbed_at_half_time_and_its_failure_is_told(tmp_path, monkeypatch):
    moments = []

    def disturb(process, folder):
        moments.append((process.is_running(), folder))
        return nullcontext()

    monkeypatch.setitem(deadline.DISTURBANCES, "core", disturb)
    with pytest.raises(subprocess.CalledProcessError):
        deadline.run_disturbed([sys.executable, "-c", "import time; time.sleep(0.3); raise SystemExit(3)"], tmp_path, "core", after_s=0.05)
    assert moments == [(True, tmp_path)]
    deadline.run_disturbed([sys.executable, "-c", "pass"], tmp_path, "core", after_s=30)
    assert len(moments) == 1
