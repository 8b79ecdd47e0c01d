"""Tracking: one row per experiment whatever dies or is locked, and nothing of it is paid by the work."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from toys import whole_plan

from pufferfish.base.events import CheckpointSaved, EvalDone, Finished, Started, StepDone, Warned
from pufferfish.base.stage import Interrupted
from pufferfish.track import artifact, journal, store, worker
from pufferfish.track.clean import MAX_VALUE, flat, without_secrets
from pufferfish.track.listener import TrainingListener
from pufferfish.track.spool import spool_stage
from pufferfish.track.tracker import Tracker
from pufferfish.track.training import track_result, track_training

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow and SQLAlchemy, not ours
DONE_S = 60.0  # for a child process on a busy machine


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A fresh database, which takes seconds to create."""
    folder = tmp_path_factory.mktemp("new checkout")
    environment = os.environ | {"DVC_ROOT": str(folder)}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-m", "pufferfish.track.store"], check=True, env=environment, capture_output=True)
    return folder / "mlruns" / "mlflow.db"


@pytest.fixture
def checkout(tmp_path, empty_store, monkeypatch):
    """A workspace with a store of its own."""
    folder = tmp_path / "my work"
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlruns" / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def database(checkout):
    return checkout / "mlruns" / "mlflow.db"


@pytest.fixture
def childless(monkeypatch):
    """Trackers that only write their journal."""
    monkeypatch.setattr(Tracker, "_start_worker", lambda self, path: None)


class GoneParent:
    """A parent that has ended, for a worker that runs in this process."""

    def __init__(self) -> None:
        self.pid, self.is_gone, self.told, self.warnings = os.getpid(), True, [], []

    def wait(self, timeout_s: float) -> None:
        time.sleep(min(timeout_s, 0.01))

    def give_way(self, niceness: int) -> None:
        pass

    def tell(self, kind: str, text: str = "") -> None:
        self.told.append(kind)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def journals() -> list[Path]:
    return sorted(journal.folder().glob("*.jsonl"))


def deliver_all(linger_s: float = 0.0) -> GoneParent:
    """What the next worker does with everything that waits."""
    parent = GoneParent()
    for path in journals():
        if reader := journal.Reader.open(path, is_waiting=True):
            worker.deliver(reader, parent, linger_s)
    return parent


def rows(experiment: str = "pufferfish") -> list:
    client = worker.open_client()
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], order_by=["attributes.start_time"]) if found else []


def history(row, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in worker.open_client().get_metric_history(row.info.run_id, key)]


def begin(run_key: str = "key", *, is_resumed: bool = False) -> Tracker:
    return Tracker.start(run_key, experiment="pufferfish", run_name="3m", is_resumed=is_resumed)


def test_three_stages_write_one_row(checkout, childless, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-fish")
    weights = tmp_path / "export"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"abc")
    with begin() as train:
        train.params({"model": {"d_model": 64, "num_layers": 3}})
        train.metrics({"train/loss": 2.5}, 7)
    deliver_all()
    with begin() as evaluate:
        evaluate.params({"model": {"d_model": 64, "num_layers": 3}, "evaluate": {"seed": 1}})
        evaluate.metrics({"val_bpb": 1.5}, 7)
    with begin() as export:
        export.artifact(weights)
        export.text("card.md", "a model")
    assert deliver_all().warnings == []
    (row,) = rows()
    assert row.info.status == "FINISHED"
    assert row.data.params == {"model.d_model": "64", "model.num_layers": "3", "evaluate.seed": "1"}
    assert row.data.metrics == {"train/loss": 2.5, "val_bpb": 1.5}
    assert row.data.tags["dvc.exp_name"] == "puffy-fish"
    assert {file.path for file in worker.open_client().list_artifacts(row.info.run_id)} == {"card.md", "export"}
    assert journals() == []


def test_a_killed_trainer_ends_as_killed_and_the_next_stage_continues_its_row(checkout, monkeypatch):
    monkeypatch.setattr(Tracker, "LINGER_S", 1.0)
    code = (
        "import time; from pufferfish.track.tracker import Tracker\n"
        "tracker = Tracker.start('key', experiment='pufferfish', run_name='3m', is_resumed=False)\n"
        "for step in range(5): tracker.metrics({'train/loss': 5.0 - step}, step)\n"
        "print('logged', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout.readline() == b"logged\n"
        trainer.send_signal(signal.SIGKILL)
    end_s = time.monotonic() + DONE_S
    while journals() and time.monotonic() < end_s:
        time.sleep(0.1)
    (row,) = rows()
    assert row.info.status == "KILLED"
    assert history(row, "train/loss") == [(step, 5.0 - step) for step in range(5)]

    spool_stage("plan", metrics={"cost_s": 3.5})
    tracker = begin()
    tracker.metrics({"val_bpb": 1.25}, 4)
    tracker.finish(timeout_s=DONE_S)
    assert tracker._process.wait(DONE_S) == 0
    (row,) = rows()
    assert (row.info.status, row.data.metrics["val_bpb"], tracker.warnings) == ("FINISHED", 1.25, [])
    assert [stage.info.run_name for stage in rows("pufferfish/stages")] == ["plan"]
    assert journals() == []


def test_a_resumed_training_logs_no_step_twice(checkout, childless):
    first = begin()
    for step in range(6):
        first.metrics({"train/loss": 10.0 + step}, step)
    first.abort()
    deliver_all()
    assert rows()[0].info.status == "KILLED"
    resumed = begin(is_resumed=True)
    for step in range(4, 9):
        resumed.metrics({"train/loss": 20.0 + step}, step)
    resumed.finish()
    deliver_all()
    (row,) = rows()
    assert row.info.status == "FINISHED"
    assert [step for step, _ in history(row, "train/loss")] == list(range(9))
    assert history(row, "train/loss")[5:7] == [(5, 15.0), (6, 26.0)]


def test_what_a_killed_process_left_does_not_undo_a_finished_row(checkout, childless, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_795_000_000.1234)  # one moment for both ends: it is not a whole millisecond
    begin().metrics({"train/loss": 3.0}, 1)
    (killed,) = journals()
    content = killed.read_bytes()
    killed.unlink()
    begin(is_resumed=True).finish()
    deliver_all()
    killed.write_bytes(content)
    worker.deliver_abandoned(killed, GoneParent(), own_key=None)
    (row,) = rows()
    assert row.info.status == "FINISHED"
    assert history(row, "train/loss") == [(1, 3.0)]
    assert journals() == []


def test_a_server_that_does_not_answer_is_like_a_locked_store(checkout, childless, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with begin() as tracker:
        tracker.metrics({"train/loss": 2.0}, 1)
    parent = deliver_all()
    assert len(parent.warnings) == 1
    assert parent.told == ["blocked", "left"]
    assert journal.abandoned() == journals() != []


def test_rows_wait_for_the_store_that_they_were_written_for(checkout, database, childless, monkeypatch):
    other = database.with_name("other.db")
    shutil.copy(database, other)
    spool_stage("plan")
    waiting = {path: path.read_bytes() for path in journals()}
    with monkeypatch.context() as patch, journal.attending():
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
        assert not journal.is_attended(), "by nobody for this store"
        spool_stage("prepare-subset")
        assert worker.stay(GoneParent(), linger_s=0.1)
        assert [row.info.run_name for row in rows("pufferfish/stages")] == ["prepare-subset"]
        assert {path: path.read_bytes() for path in journals()} == waiting
    assert rows("pufferfish/stages") == []
    assert worker.deliver_all_abandoned(GoneParent())
    assert [row.info.run_name for row in rows("pufferfish/stages")] == ["plan"]
    assert journals() == []


def test_a_journal_of_an_older_version_goes_to_any_store(checkout, monkeypatch):
    spool_stage("plan")
    (path,) = journals()
    start, *others = path.read_bytes().splitlines(keepends=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert journal.abandoned() == []
    path.write_bytes(b"".join([journal.encode({key: value for key, value in json.loads(start).items() if key != "store"}), *others]))
    assert journal.abandoned() == [path]


def test_the_name_of_a_store_gives_no_address_away_and_outlives_passwords_and_moves(checkout, monkeypatch):
    own = store.name()
    monkeypatch.setenv("DVC_ROOT", str(checkout.with_name("elsewhere")))
    assert store.name() == own
    names = []
    for uri in ("https://me:pa55@runs.example.org", "https://me:later@runs.example.org", "https://me:pa55@runs.example.net"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        names.append(store.name())
    spool_stage("plan")
    assert "example.net" not in journals()[0].read_text()
    assert names[0] == names[1]
    assert len({own, *names}) == 3


def test_delivering_a_journal_twice_changes_nothing(checkout, childless):
    with begin() as tracker:
        tracker.params({"a": 1})
        for step in range(3):
            tracker.metrics({"train/loss": float(step), "train/nan": float("nan")}, step)
    (path,) = journals()
    content = path.read_bytes()
    deliver_all()
    path.write_bytes(content)
    assert deliver_all().warnings == []
    (row,) = rows()
    assert [step for step, _ in history(row, "train/loss")] == [0, 1, 2]
    assert len(history(row, "train/nan")) == 3


def test_a_locked_store_warns_once_and_everything_arrives_later(checkout, database, childless, monkeypatch):
    monkeypatch.setattr(worker.store, "LOCKED_AFTER_S", 0.01)
    lock = sqlite3.connect(database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with begin() as tracker:
        tracker.metrics({"train/loss": 2.0}, 1)
    parent = deliver_all(linger_s=0.1)
    assert [("locked" in text) for text in parent.warnings] == [True]
    assert parent.told == ["blocked", "left"]
    assert len(journals()) == 1
    lock.execute("ROLLBACK")
    lock.close()
    assert deliver_all().told == ["done"]
    assert history(rows()[0], "train/loss") == [(1, 2.0)]
    assert journals() == []


def test_a_corrupt_store_is_left_alone_and_everything_arrives_in_a_mended_one(checkout, database, childless):
    good = database.read_bytes()
    database.write_bytes(b"no database at all " * 300)
    with begin() as tracker:
        tracker.metrics({"train/loss": 2.0}, 1)
    parent = deliver_all()
    assert len(parent.warnings) == 1
    assert "not a database" in parent.warnings[0]
    assert database.read_bytes().startswith(b"no database")
    database.write_bytes(good)
    deliver_all()
    assert history(rows()[0], "train/loss") == [(1, 2.0)]


@pytest.mark.slow
def test_a_locked_store_neither_delays_the_work_nor_loses_its_row(checkout, database, monkeypatch):
    monkeypatch.setattr(Tracker, "LINGER_S", 2.0)
    lock = sqlite3.connect(database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with begin() as tracker:
        tracker.metrics({"train/loss": 2.0}, 1)
        end_s = time.monotonic() + DONE_S
        while not tracker.warnings and time.monotonic() < end_s:
            time.sleep(0.05)
    assert "locked" in tracker.warnings[0]
    assert tracker._process.poll() is None, "the work did not wait for the child"
    lock.execute("ROLLBACK")
    lock.close()
    assert tracker._process.wait(DONE_S) == 0
    deliver_all()
    assert history(rows()[0], "train/loss") == [(1, 2.0)]
    assert journals() == []


def test_a_dead_worker_is_told_and_the_row_is_delivered_later(checkout, monkeypatch):
    def start_nothing(self, path):
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "_start_worker", start_nothing)
        tracker = begin()
        tracker._process.wait(DONE_S)
        for step in range(3):
            tracker.metrics({"train/loss": 1.0}, step)
        tracker.finish()
    assert "tracking stopped" in tracker.warnings[0]
    deliver_all()
    assert len(history(rows()[0], "train/loss")) == 3


def test_what_went_wrong_with_the_row_of_a_training_is_told_at_its_end(checkout, monkeypatch, capsys):
    def start_nothing(self, path):
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(Tracker, "_start_worker", start_nothing)
    with track_training(whole_plan(), run_key="key", is_resumed=False) as tracked:
        tracked.tracker._process.wait(DONE_S)
    assert capsys.readouterr().err.startswith("tracking: tracking stopped (see ")


def test_what_went_wrong_with_the_row_of_a_result_is_told_once(checkout, monkeypatch, capsys):
    def refuse(self, path):
        raise OSError("no more processes")

    monkeypatch.setattr(Tracker, "_start_worker", refuse)
    with track_result(whole_plan(), run_key="key"):
        pass
    assert capsys.readouterr().err == "tracking: tracking is not complete: no more processes\n"


CHATTY_WORKER = """
import os
from pufferfish.track import worker

def deliver(reader, parent, linger_s):
    print("View run 3m at: http://127.0.0.1:5000", flush=True)
    os.system("echo a child of the worker")
    parent.warn("the store is full")
    parent.tell("done")
    return False

worker.import_early = lambda: print("a library is imported")
worker.deliver = deliver
worker.main()
"""


def test_what_libraries_print_in_the_worker_reaches_the_log_and_not_the_parent(checkout, childless):
    begin()
    command = [sys.executable, "-c", CHATTY_WORKER, str(journals()[0]), "0"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [{"kind": "warning", "text": "the store is full"}, {"kind": "done", "text": ""}]
    assert all(text in ended.stderr for text in ("View run", "a child of the worker", "a library is imported", "the store is full"))


def test_a_line_that_is_no_message_is_passed_over(checkout, monkeypatch):
    lines = [
        "View run 3m at: http://127.0.0.1:5000",
        "7",
        "\xff",
        '{"a": 1}',
        '{"kind": "warning", "text": "the store is full"}',
        '{"kind": "done", "text": ""}',
    ]
    code = f"import sys; sys.stdout.buffer.write({chr(10).join(lines).encode('latin-1')!r} + b'\\n')"
    monkeypatch.setattr(
        Tracker, "_start_worker", lambda self, path: subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    tracker = begin()
    tracker.finish(timeout_s=DONE_S)
    assert tracker._process.wait(DONE_S) == 0
    assert tracker._is_delivered
    assert tracker.warnings == ["the store is full"]


def test_a_state_folder_that_cannot_be_written_only_warns(tmp_path, monkeypatch, capsys):
    (tmp_path / ".pufferfish").write_text("in the way")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with begin() as tracker:
        tracker.metrics({"train/loss": 1.0}, 1)
    assert len(tracker.warnings) == 1
    spool_stage("plan")
    assert capsys.readouterr().err.splitlines()[0].startswith("tracking: the row of plan is lost: ")


def test_a_full_disk_tears_one_line_and_no_other(tmp_path, monkeypatch):
    written = journal.Journal(tmp_path / "a.jsonl")
    written.append({"type": "tags", "values": {"n": 1}})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line, write=os.write: write(descriptor, line[:9]))
        written.append({"type": "tags", "values": {"n": 2}})
    written.append({"type": "tags", "values": {"n": 3}})
    written.close()
    reader = journal.Reader.open(tmp_path / "a.jsonl", is_waiting=False)
    assert [message["values"]["n"] for message in reader.read()] == [1, 3]
    reader.close()


def test_two_workers_never_deliver_the_same_journal_at_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(journal.encode({"type": "start"}))
    first = journal.Reader.open(path, is_waiting=False)
    assert journal.Reader.open(path, is_waiting=False) is None
    first.remove()
    assert journal.Reader.open(path, is_waiting=False) is None


def test_the_lock_is_one_that_nfs_gives_too(tmp_path, monkeypatch):
    def flock_of_nfs(descriptor, operation, flock=fcntl.flock):
        if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(journal.fcntl, "flock", flock_of_nfs)
    path = tmp_path / "a.jsonl"
    path.write_bytes(journal.encode({"type": "start"}))
    reader = journal.Reader.open(path, is_waiting=False)
    assert reader.read() == [{"type": "start"}]
    reader.remove()


def test_the_journal_of_living_work_is_not_abandoned(checkout, childless):
    tracker = begin()
    spool_stage("plan")
    assert [path.name.split("-")[-1] for path in journal.abandoned()] == ["plan.jsonl"]
    tracker.finish()
    assert [path.name.split("-")[-1] for path in journal.abandoned()] == ["key.jsonl", "plan.jsonl"]


def test_early_stages_arrive_in_rows_of_their_own(checkout, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"d_model": 64}')
    spool_stage("plan", params={"budget": {"time": "3m"}}, metrics={"cost_s": 4.5}, artifacts=[plan], tags={"hardware": "abc"})
    plan.unlink()
    spool_stage("prepare-subset", metrics={"num_tokens": 1000})
    deliver_all()
    first, second = sorted(rows("pufferfish/stages"), key=lambda row: row.info.run_name)  # both may begin in the same millisecond
    assert (first.info.run_name, first.info.status) == ("plan", "FINISHED")
    assert first.data.params == {"budget.time": "3m"}
    assert first.data.tags["hardware"] == "abc"
    assert [file.path for file in worker.open_client().list_artifacts(first.info.run_id)] == ["plan.json"]
    assert second.data.metrics == {"num_tokens": 1000.0}


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits for DVC to put files back."""
    monkeypatch.setattr(artifact, "SETTLE_S", 0.0)


def test_an_artifact_that_is_gone_does_not_hold_up_the_rest(checkout, childless, impatient, tmp_path):
    with begin() as tracker:
        tracker.artifact(tmp_path / "absent.bin")
        tracker.metrics({"train/loss": 2.0}, 1)
    assert "absent.bin was gone" in deliver_all().warnings[0]
    assert rows()[0].data.metrics == {"train/loss": 2.0}


def files_of(row) -> dict[str, bytes]:
    """What the store keeps for a row, by name."""
    folder = Path(unquote(urlsplit(row.info.artifact_uri).path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_model(folder: Path, weights: bytes, outcome: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "outcome.json").write_text(outcome)
    return folder


LATER = {"both": (b"\xff" * 64, "b"), "weights": (b"\xff" * 64, "a"), "outcome": (b"\x80" * 64, "b"), "size": (b"\x80" * 65, "a")}


@pytest.mark.parametrize(("weights", "outcome"), LATER.values(), ids=LATER)
def test_a_row_that_waited_does_not_get_the_model_of_a_later_run(checkout, childless, impatient, tmp_path, weights, outcome):
    for run_key, model in (("first", (b"\x80" * 64, "a")), ("second", (weights, outcome))):
        (tmp_path / "evaluation.json").write_bytes(f"of the {run_key}\r\n".encode())
        with begin(run_key) as tracker:
            tracker.artifact(write_model(tmp_path / "model", *model), "model")
            tracker.artifact(tmp_path / "evaluation.json", "results")
    warnings = deliver_all().warnings
    first, second = sorted(rows(), key=lambda row: row.data.tags["pufferfish.run_key"])
    assert warnings == [f"the artifact {tmp_path / 'model'} changed before it was copied: the row {first.info.run_id} is without it"]
    assert files_of(first) == {"results/evaluation.json": b"of the first\r\n"}
    model = {"model/model/weights.safetensors": weights, "model/model/outcome.json": outcome.encode()}
    assert files_of(second) == {"results/evaluation.json": b"of the second\r\n"} | model


def test_an_artifact_that_became_a_link_to_the_same_content_is_copied(checkout, childless, impatient, tmp_path):
    model = write_model(tmp_path / "model", b"\x80" * 64, "a")
    with begin() as tracker:
        tracker.artifact(model)
        tracker.artifact(model / "weights.safetensors", "alone")
    cache = tmp_path / "cache"
    shutil.copytree(model, cache)
    for path in model.iterdir():
        os.utime(cache / path.name, (1, 1))
        path.unlink()
        path.symlink_to(cache / path.name)
    assert deliver_all().warnings == []
    weights = b"\x80" * 64
    assert files_of(rows()[0]) == {"model/weights.safetensors": weights, "model/outcome.json": b"a", "alone/weights.safetensors": weights}


def test_an_artifact_that_is_away_for_a_moment_is_waited_for(checkout, childless, monkeypatch, tmp_path):
    weights, aside = tmp_path / "weights.bin", tmp_path / "aside"
    weights.write_bytes(b"\x80")
    with begin() as tracker:
        tracker.artifact(weights)
    weights.rename(aside)
    monkeypatch.setattr(artifact.time, "sleep", lambda wait_s: aside.rename(weights) if aside.exists() else None)
    assert deliver_all().warnings == []
    assert files_of(rows()[0]) == {"weights.bin": b"\x80"}


def test_a_journal_of_an_older_version_has_what_stands_there_delivered(checkout, childless, tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"\x80")
    tracker = begin()
    tracker.artifact(weights)
    tracker.finish()
    (path,) = journals()
    messages = [journal.decode(line) for line in path.read_bytes().splitlines()]
    for message in messages:
        message.pop("content", None)
    path.write_bytes(b"".join(map(journal.encode, messages)))
    weights.write_bytes(b"\x81")
    assert deliver_all().warnings == []
    assert files_of(rows()[0]) == {"weights.bin": b"\x81"}


def test_an_experiment_that_was_deleted_in_mlflow_is_restored_and_told(checkout, childless):
    begin("first").finish()
    deliver_all()
    client = worker.open_client()
    client.delete_experiment(client.get_experiment_by_name("pufferfish").experiment_id)
    begin("second").finish()
    parent = deliver_all()
    assert parent.told == ["done"]
    assert [("pufferfish had been deleted" in text) for text in parent.warnings] == [True]
    assert {row.data.tags["pufferfish.run_key"] for row in rows()} == {"first", "second"}


def log_a_note(run_key: str) -> None:
    with begin(run_key) as tracker:
        tracker.text("note.txt", run_key)
    assert deliver_all().warnings == []


def notes() -> dict[str, dict[str, bytes]]:
    return {row.data.tags["pufferfish.run_key"]: files_of(row) for row in rows()}


@pytest.fixture
def moved(checkout, childless, monkeypatch):
    """A function that has the checkout at another place, with its database and, where wanted, its files; `first` is a row from before."""
    log_a_note("first")

    def move(how) -> Path:
        place = checkout.with_name("100%_new place")
        how(checkout, place)
        monkeypatch.setenv("DVC_ROOT", str(place))
        return place

    return move


def copy_database(old: Path, new: Path) -> None:
    (new / "mlruns").mkdir(parents=True)
    shutil.copy(old / "mlruns" / "mlflow.db", new / "mlruns")


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_checkout_that_was_moved_or_copied_keeps_its_files_at_its_new_place(moved, checkout, how):
    before = sorted(checkout.rglob("*"))
    place = moved(how)
    log_a_note("second")
    assert {row.info.artifact_uri.startswith(f"{place.as_uri()}/mlruns/artifacts/") for row in rows()} == {True}
    assert notes() == {"first": {"note.txt": b"first"}, "second": {"note.txt": b"second"}}
    assert sorted(checkout.rglob("*")) == (before if how == shutil.copytree else [])


def test_files_that_stayed_at_the_old_place_are_found_there(moved, checkout):
    place = moved(copy_database)
    log_a_note("second")
    assert notes() == {"first": {"note.txt": b"first"}, "second": {"note.txt": b"second"}}
    assert [row.info.artifact_uri.startswith(folder.as_uri()) for row, folder in zip(rows(), (checkout, place), strict=True)] == [True, True]


def test_places_that_the_user_chose_stay(moved, checkout, monkeypatch):
    client = worker.open_client()
    client.create_experiment("elsewhere", artifact_location="file:///srv/results")
    client.create_run(client.get_experiment_by_name("elsewhere").experiment_id)
    place = moved(shutil.copytree)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlruns/mlflow.db")
    store.follow_checkout()
    assert worker.open_client().get_experiment_by_name("pufferfish").artifact_location.startswith(checkout.as_uri()), "a store that is named is left alone"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    store.follow_checkout()
    client = worker.open_client()
    assert client.get_experiment_by_name("pufferfish").artifact_location == f"{place.as_uri()}/mlruns/artifacts"
    assert client.get_experiment_by_name("elsewhere").artifact_location == "file:///srv/results"
    assert [row.info.artifact_uri.startswith("file:///srv/results/") for row in rows("elsewhere")] == [True]


def test_a_moved_checkout_whose_store_is_locked_ends_no_set_up(moved, monkeypatch):
    database = moved(shutil.move) / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        assert subprocess.run([sys.executable, "-m", "pufferfish.track.store"], capture_output=True, text=True, check=True).stderr == ""
    assert rows()[0].info.artifact_uri.startswith(database.parent.as_uri())


def test_a_database_without_tables_is_left_to_mlflow(checkout, database):
    database.write_bytes(b"")
    store.follow_checkout()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []


def open_result(run_key: str = "key") -> Tracker:
    return Tracker.open(run_key, experiment="pufferfish", run_name="3m", is_resumed=False)


def test_a_short_stage_starts_no_child_while_it_works_nor_where_one_is_there(checkout, monkeypatch):
    started = []
    monkeypatch.setattr(Tracker, "_start_worker", lambda self, path: started.append(journal.is_finished(path)))
    with journal.attending(), open_result() as evaluate:
        evaluate.metrics({"val_bpb": 1.5}, 7)
    assert started == []
    with open_result():
        pass
    assert started == [True], "alone it starts one, when its work is done"


def test_the_child_that_an_earlier_stage_left_delivers_what_a_later_one_leaves(checkout, childless):
    with begin() as train:
        train.metrics({"train/loss": 2.5}, 7)
    deliver_all()
    evaluate = open_result()
    evaluate.metrics({"val_bpb": 1.5}, 7)
    evaluate.abort("FAILED")
    assert worker.stay(GoneParent(), linger_s=0.1)
    (row,) = rows()
    assert (row.info.status, row.data.metrics) == ("FAILED", {"train/loss": 2.5, "val_bpb": 1.5})
    assert journals() == []


def test_a_short_stage_alone_has_its_row_delivered(checkout, monkeypatch):
    monkeypatch.setattr(Tracker, "LINGER_S", 0.0)
    with open_result() as evaluate:
        evaluate.metrics({"val_bpb": 1.5}, 7)
        evaluate.finish(timeout_s=DONE_S)
    assert evaluate._process.wait(DONE_S) == 0
    (row,) = rows()
    assert (row.info.status, row.data.metrics) == ("FINISHED", {"val_bpb": 1.5})


def test_who_stays_gives_up_on_a_silent_store_and_keeps_what_waits(checkout, database, childless, monkeypatch):
    monkeypatch.setattr(worker.store, "LOCKED_AFTER_S", 0.01)
    open_result().finish()
    with closing(sqlite3.connect(database, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        assert not worker.stay(GoneParent(), linger_s=1.0)
    assert len(journals()) == 1


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (Interrupted, "KILLED")])
def test_the_status_says_how_the_work_ended(checkout, childless, error, status):
    with pytest.raises(error), begin():
        raise error
    (path,) = journals()
    assert journal.decode(path.read_bytes().splitlines()[-1])["status"] == status


def test_secrets_stay_here(checkout, childless):
    token = "hf_" + "a1B2" * 6
    with begin() as tracker:
        tracker.params({"data": {"url": f"https://me:{token}@example.org/x?access_token=abc123&n=1"}})
        tracker.tags({"git.remote": "https://user:pa55@example.org/repo.git"})
        tracker.text("notes.txt", f"token {token}")
    content = journals()[0].read_text()
    assert token not in content
    assert "pa55" not in content
    assert "abc123" not in content
    assert "https://example.org/repo.git" in content
    assert without_secrets("git@example.org:me/repo.git, tokens_per_step=4096") == "git@example.org:me/repo.git, tokens_per_step=4096"


def test_parameters_are_flat_and_of_bounded_length():
    values = flat({"a": {"b": {"c": 1.5}, "d": [1, 2]}, "e(f)": "x" * 9000})
    assert values["a.b.c"] == "1.5"
    assert values["a.d"] == "[1, 2]"
    assert len(values["e_f_"]) == MAX_VALUE


def test_steps_are_thinned_out_and_everything_else_is_logged(checkout, childless):
    tracker = begin()
    listen = TrainingListener(tracker)
    listen(Started(step=0, num_params=1000, train_s=10.0, is_resumed=False))
    for step in range(1, 101):
        listen(StepDone(step, step / 100, 3.0, 1.0, 0.5, step * 64, 640.0, step / 10, 10 - step / 10, 10**8))
    listen(EvalDone(100, 1.0, 1.5, 10.0, 0.3))
    listen(CheckpointSaved(100, 0.2, 12345))
    listen(Warned(100, "data repeats"))
    listen(Finished(100, 1.0, 6400, 10.0, -0.5))
    TrainingListener(tracker)(Finished(101, 1.0, 6464, 10.1, None))
    tracker.finish()
    messages = journal.Reader.open(journals()[0], is_waiting=False).read()
    metrics = [message for message in messages if message["type"] == "metrics"]
    steps = [message["step"] for message in metrics if "train/loss" in message["values"]]
    assert steps[:3] == [1, 12, 23]
    assert len(steps) == 11
    assert steps[-1] == 100
    assert {"val/bpb", "checkpoint/cost_s", "train/late_s", "train/num_params"} <= {key for message in metrics for key in message["values"]}
    assert [message["step"] for message in metrics if "train/late_s" in message["values"]] == [100], "counted steps are never late"
    assert any("data repeats" in message.get("text", "") for message in messages)


def test_tracking_is_imported_without_mlflow_and_torch():
    code = "import sys, pufferfish.track.tracker, pufferfish.track.spool, pufferfish.track.listener; print({'mlflow', 'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
