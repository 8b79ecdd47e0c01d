"""`make ui` shows the runs where they are logged to."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pufferfish.track import browse, journal, store
from pufferfish.track.spool import spool_stage

ROOT = Path(__file__).resolve().parents[1]


class Became(Exception):
    """The process would now be another program."""


@pytest.fixture
def shown(workplace, monkeypatch):
    """A function that browses the runs of a tracking URI and returns the store that MLflow would show."""
    monkeypatch.setattr(browse.os, "environ", dict(browse.os.environ))

    def become(program, arguments):
        assert program == sys.executable
        assert arguments[1:4] == ["-m", "mlflow", "ui"]
        raise Became

    monkeypatch.setattr(browse.os, "execv", become)

    def show(uri):
        browse.os.environ.pop("MLFLOW_TRACKING_URI", None)
        browse.os.environ |= {"MLFLOW_TRACKING_URI": uri} if uri else {}
        with pytest.raises(Became):
            browse.main()
        return browse.os.environ["MLFLOW_BACKEND_STORE_URI"]

    return show


def test_the_checkouts_own_store_is_shown_where_nothing_else_is_named(shown, workplace):
    assert shown("") == f"sqlite:///{workplace}/mlruns/mlflow.db"


def test_the_runs_of_a_moved_checkout_are_shown_with_their_files_and_those_of_a_locked_store_all_the_same(shown, workplace, monkeypatch):
    monkeypatch.setattr(store, "LOCKED_AFTER_S", 0.01)
    (workplace / "mlruns").mkdir()
    with closing(sqlite3.connect(workplace / "mlruns" / "mlflow.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE experiments (artifact_location)")
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO experiments VALUES ('file:///old/mlruns/artifacts')")
        database.execute("BEGIN EXCLUSIVE")
        assert shown("") == f"sqlite:///{workplace}/mlruns/mlflow.db"
        database.execute("ROLLBACK")
        assert database.execute("SELECT * FROM experiments").fetchall() == [("file:///old/mlruns/artifacts",)]
        shown("")
        assert database.execute("SELECT * FROM experiments").fetchall() == [((workplace / "mlruns" / "artifacts").as_uri(),)]


@pytest.mark.parametrize("uri", ["sqlite:////srv/runs.db", "postgresql+psycopg2://me:pass@db/runs", "mysql://db/runs", "file:///srv/runs", "/srv/runs", "runs"])
def test_the_store_that_is_named_is_shown_and_its_password_is_not(shown, capsys, uri):
    assert shown(uri) == uri
    assert "me:pass" not in capsys.readouterr().out


def test_rows_that_still_wait_are_delivered_unless_somebody_is_at_it(shown, monkeypatch):
    started = []
    monkeypatch.setattr(browse, "start_worker", lambda path, linger_s: started.append(path.name.split("-")[-1]))
    shown("")
    spool_stage("plan")
    with journal.attending():
        shown("")
    assert started == []
    shown("")
    assert started == ["plan.jsonl"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:8080", "https://me:pass@runs.example.org/team", "databricks", "databricks://profile"])
def test_a_server_is_named_without_its_password_and_nothing_is_started(monkeypatch, capsys, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    browse.main()
    said = capsys.readouterr().out
    assert said == f"MLFLOW_TRACKING_URI names a server, which shows the runs itself: {uri.replace('me:pass@', '')}\n"


def test_make_ui_asks_for_the_store_and_names_none_itself():
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\nui:")[2].partition("\n\n")[0]
    assert "pufferfish.track.browse" in recipe
    assert "sqlite" not in (ROOT / "Makefile").read_text("utf-8")
