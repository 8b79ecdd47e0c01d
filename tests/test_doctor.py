"""The doctor: each line is ok, warn or fail and says what mends it; only a failure changes the exit status."""

import argparse
import json
import os
import sqlite3
import time
from types import SimpleNamespace

import pytest
from filelock import FileLock

from pufferfish.base import lines, memo, paths
from pufferfish.cli import doctor
from pufferfish.probe import health
from pufferfish.schema import reserve
from pufferfish.schema.hardware import Gpu
from pufferfish.track import journal, store

SECTIONS = "".join(f"{name}: {{}}\n" for name in ("budget", "hardware_probe", "plan", "data", "model", "train", "evaluate", "export"))


@pytest.fixture
def checkout(workplace, monkeypatch):
    """A folder in which everything is in order, on a quiet machine without an NVIDIA device."""
    (workplace / "params.yaml").write_text(SECTIONS)
    (workplace / ".dvc").mkdir()
    (workplace / ".git").mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(doctor.nvidia, "load_nvml", lambda: None)
    monkeypatch.setattr(health, "load_advice", lambda: "")
    monkeypatch.setattr(health, "ADVISED_DISK_BYTES", 0)
    monkeypatch.setattr(health, "ADVISED_MEMORY_BYTES", 0)
    monkeypatch.setattr(doctor, "compiler_here", lambda fingerprint: True)
    store.folder().mkdir()
    sqlite3.connect(store.database()).execute("CREATE TABLE experiments (name TEXT)").connection.close()
    return workplace


def examine(capsys, *words):
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    status = doctor.run(parser.parse_args([*words, "--json"]))
    return status, {check["name"]: check for check in json.loads(capsys.readouterr().out)}


def test_where_all_is_in_order_every_line_is_ok(checkout, capsys):
    status, checks = examine(capsys)
    assert {check["status"] for check in checks.values()} == {"ok"}, checks
    assert status == 0


def test_every_line_that_is_not_ok_says_what_mends_it(checkout, capsys):
    (checkout / "params.yaml").write_text(SECTIONS.replace("budget: {}", "budget: {tim: 3m}"))
    (checkout / ".dvc").rmdir()
    (checkout / ".git").rmdir()
    store.database().unlink()
    status, checks = examine(capsys)
    assert status == 1
    found = {name: check["status"] for name, check in checks.items() if check["status"] != "ok"}
    assert found == {"settings": "fail", "dvc": "fail", "git": "warn", "mlflow": "warn"}
    assert all(checks[name]["fix"] for name in found)
    assert "budget.time" in checks["settings"]["fix"]


def test_a_warning_alone_is_no_failure(checkout, capsys, monkeypatch):
    monkeypatch.setattr(health, "ADVISED_MEMORY_BYTES", 10**18)
    monkeypatch.setattr(health, "ADVISED_DISK_BYTES", 10**18)
    monkeypatch.setattr(health, "load_advice", lambda: "busy")
    monkeypatch.setattr(doctor, "compiler_here", lambda fingerprint: False)
    status, checks = examine(capsys)
    assert status == 0
    assert {name for name, check in checks.items() if check["status"] == "warn"} == {"memory", "disk", "load", "compiler"}


def test_the_text_shows_the_fix_below_its_line(checkout, capsys):
    store.database().unlink()
    assert doctor.run(argparse.Namespace(prune=False, remeasure=False, json=False)) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith("warn  mlflow"))
    assert lines[place + 1].strip() == "fix: run `make setup`"


def test_an_old_python_fails():
    assert doctor.check_python((3, 10)).status == "fail"
    assert doctor.check_python((3, 11)).status == "ok"


def test_a_wished_device_that_is_absent_fails(checkout, capsys):
    (checkout / "params.yaml").write_text(SECTIONS.replace("hardware_probe: {}", "hardware_probe: {device: cuda}"))
    status, checks = examine(capsys)
    assert (status, checks["device"]["status"]) == (1, "fail")
    assert "cores" not in checks


def test_a_damaged_store_fails(checkout, capsys):
    store.database().write_bytes(b"this is no database, but long enough to look like one" * 40)
    assert examine(capsys)[1]["mlflow"]["status"] == "fail"


def test_a_locked_store_fails_within_seconds(checkout, capsys, monkeypatch):
    monkeypatch.setattr(store, "LOCKED_AFTER_S", 0.01)
    holder = sqlite3.connect(store.database(), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert examine(capsys)[1]["mlflow"]["status"] == "fail"
    holder.close()


def test_a_server_is_named_without_its_password(checkout, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example:5000")
    saw = examine(capsys)[1]["mlflow"]["saw"]
    assert "tracking.example" in saw
    assert "secret" not in saw


def test_waiting_rows_are_counted(checkout, capsys):
    journal.folder().mkdir(parents=True)
    journal.new_path("plan").write_text("{}\n")
    assert "1 rows wait" in examine(capsys)[1]["tracking"]["saw"]


def test_rows_for_another_store_are_told_as_such(checkout, capsys):
    journal.folder().mkdir(parents=True)
    (journal.folder() / "row.jsonl").write_bytes(journal.encode({"type": "start", "store": "another", "pid": 0}))
    told = examine(capsys)[1]["tracking"]
    assert "1 rows in" in told["saw"]
    assert "MLFLOW_TRACKING_URI" in told["fix"]


def make_work(name, num_bytes, age_s):
    folder = paths.state() / "work" / name
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_bytes(b"x" * num_bytes)
    os.utime(folder, (time.time() - age_s, time.time() - age_s))
    return folder


def test_work_is_listed_with_size_and_age_and_kept_without_prune(checkout, capsys):
    folder = make_work("abc", 5_300_000, 7500)
    saw = examine(capsys)[1]["work"]["saw"]
    assert "5.3 MB" in saw
    assert "2h 05m ago" in saw
    assert folder.exists()


def test_prune_removes_work_that_nobody_is_at_and_keeps_a_running_training(checkout, capsys):
    idle, busy = make_work("idle", 3, 10), make_work("busy", 4, 10)
    with FileLock(busy / "lock"):
        checks = list(doctor.check_work(prune=True))
    assert not idle.exists()
    assert (busy / "state.safetensors").exists()
    assert [check.saw.rsplit(maxsplit=1)[-1] for check in checks] == ["kept", "removed"]


def test_remeasure_forgets_the_speeds_and_what_plans_found_out(checkout, capsys):
    machines = paths.state() / "machines"
    machines.mkdir(parents=True)
    (machines / "abc.json").write_text("{}")
    memo.keep("steps", {"machine": "abc"}, [], tell=print)
    lines.append(reserve.file(), {"hardware": "abc", "run_key": "run", "took_s": 9.0, "estimated_s": 10.0})
    examine(capsys, "--remeasure")
    assert list(machines.iterdir()) == []
    assert reserve.ratios("abc") == []
    assert memo.all_kept() == []


def test_prune_removes_what_older_code_found_out_and_keeps_the_rest(checkout, capsys, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(memo, "digest_code", lambda *rooms: "older code")
        memo.keep("survey", {"text": "c0"}, [], tell=print)
    memo.keep("survey", {"text": "c0"}, [], tell=print)
    assert "2 answers for the next plan" in examine(capsys)[1]["kept"]["saw"]
    assert "1 of them by older code: removed" in examine(capsys, "--prune")[1]["kept"]["saw"]
    assert [each.is_current for each in memo.all_kept()] == [True]


def test_an_nvidia_device_is_described_with_what_it_does_now(checkout, monkeypatch):
    gpu = Gpu(name="Small Card", compute_capability="8.6", memory_bytes=12 * 10**9, driver="590.44")
    identity = SimpleNamespace(fingerprint=SimpleNamespace(gpus=[gpu], device="cuda"))
    state = doctor.nvidia.GpuState("Small Card", free_bytes=4 * 10**9, utilisation_share=0.37, power_watts=71.4, processes=[(4242, 3 * 10**9)])
    monkeypatch.setattr(doctor.nvidia, "load_nvml", lambda: SimpleNamespace(NVMLError=OSError))
    monkeypatch.setattr(doctor.nvidia, "gpu_states", lambda nvml, environment: [state])
    first, *others = doctor.check_gpus(identity)
    assert first.saw == "Small Card, compute capability 8.6, driver 590.44, 12.0 GB, 4.0 GB free, 37% busy, 71 W"
    assert [check.status for check in others] == ["warn", "ok"]
    assert "process 4242 uses 3.0 GB" in others[0].saw


def test_a_driver_that_stops_to_answer_is_a_line_and_no_traceback(checkout, monkeypatch):
    def refuse(nvml, environment):
        raise OSError("Unknown Error")

    gpu = Gpu(name="Small Card", compute_capability="8.6", memory_bytes=12 * 10**9, driver="590.44")
    identity = SimpleNamespace(fingerprint=SimpleNamespace(gpus=[gpu], device="cuda"))
    monkeypatch.setattr(doctor.nvidia, "load_nvml", lambda: SimpleNamespace(NVMLError=OSError))
    monkeypatch.setattr(doctor.nvidia, "gpu_states", refuse)
    [check] = doctor.check_gpus(identity)
    assert (check.status, check.saw) == ("warn", "NVIDIA's driver does not answer: Unknown Error")
    assert check.fix
