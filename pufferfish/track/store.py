"""Where rows are kept: the server named in MLFLOW_TRACKING_URI, or a SQLite database in the user's checkout.

`python -m pufferfish.track.store` creates the database, which takes seconds and therefore belongs into the set-up.
In a checkout that was moved or copied it brings the database up to date instead, as whoever logs or shows rows does too.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pufferfish.base import atomic, paths
from pufferfish.track.clean import without_secrets

LOCKED_AFTER_S = 1.0  # another writer holds a lock for milliseconds
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds; we try again ourselves
SQLITE = "sqlite:///"
OWN = "checkout"


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME wins; rows of early stages go to `<name>/stages`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "pufferfish"


def folder() -> Path:
    """`<checkout>/mlruns`"""
    return paths.workspace() / "mlruns"


def tracking_uri() -> str:
    """For MLflow, absolute: an experiment that runs in a temporary folder logs to the checkout's store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_uri()


def own_uri() -> str:
    """The checkout's own database."""
    return f"{SQLITE}{folder() / 'mlflow.db'}"


def name() -> str:
    """Tells stores apart without giving an address away. The checkout's own store keeps its name in another place, a server its name with another password."""
    uri = tracking_uri()
    return OWN if uri == own_uri() else hashlib.sha256(without_secrets(uri).encode()).hexdigest()[:16]


def artifact_location() -> str | None:
    """Where the files of new experiments go; None leaves it to the server."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else (folder() / "artifacts").as_uri()


def database() -> Path | None:
    """The SQLite file, None for a server."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def check_database() -> None:
    """Raises sqlite3.Error, within a second, where the database is locked or no database: MLflow itself would wait for minutes."""
    path = database()
    if path is None or not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=LOCKED_AFTER_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA schema_version")
        connection.execute("ROLLBACK")


def quiet() -> None:
    """No telemetry, no links on the screen, no question to git at import, one thread, no long wait for a silent server. Before MLflow is imported."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "GIT_PYTHON_REFRESH": "quiet", "OMP_NUM_THREADS": "1"}


def create_store() -> None:
    """Create the database where there is none, whole or not at all; several processes may call it at once. A server is left alone."""
    path = database()
    if path is None or path.exists():
        return
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".create.lock")):
        if path.exists():
            return
        quiet()
        from mlflow import MlflowClient

        unfinished = atomic.beside(path)
        try:
            client = MlflowClient(f"{SQLITE}{unfinished}")
            for name in (experiment_name(), f"{experiment_name()}/stages"):
                client.create_experiment(name, artifact_location=artifact_location())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def follow_checkout() -> None:
    """Have the checkout's own database keep files where the checkout is now, for MLflow remembers whole paths. A store that was named is left alone.

    Raises sqlite3.Error where the database is locked or no database; then nothing is changed.
    """
    here, path = artifact_location(), database()
    if here is None or path is None or not path.exists():
        return
    inside = here.removeprefix(paths.workspace().as_uri())
    with closing(sqlite3.connect(path, timeout=LOCKED_AFTER_S, isolation_level=None)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name IN ('experiments', 'runs')").fetchall()
        places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall() if len(tables) == 2 else []
        former = [place for (place,) in places if place and place.startswith("file:") and place.endswith(inside) and place != here]  # the user chose others
        if not former:
            return
        connection.execute("BEGIN IMMEDIATE")
        for place in former:
            _move_rows(connection, place, here)
        connection.execute("COMMIT")


def _move_rows(connection: sqlite3.Connection, old: str, here: str) -> None:
    """Runs whose files are at the old place alone go on there, so that they are still found."""
    connection.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (here, old))
    runs = connection.execute("SELECT run_uuid, artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(old) + 1, f"{old}/")).fetchall()
    moves = [(run, uri, here + uri.removeprefix(old)) for run, uri in runs]
    moved = [(new, run) for run, uri, new in moves if _is_there(new) or not _is_there(uri)]
    connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", moved)


def _is_there(uri: str) -> bool:
    return os.path.exists(unquote(urlsplit(uri).path))  # False, not an error, in a folder that may not be entered


if __name__ == "__main__":
    create_store()
    with suppress(sqlite3.Error):  # whoever logs tries it again, and tells
        follow_checkout()
