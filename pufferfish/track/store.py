"""Where rows are kept: the server named in MLFLOW_TRACKING_URI, or a SQLite database in the user's checkout.

`python -m pufferfish.track.store` creates the database, which takes seconds and therefore belongs into the set-up.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from pufferfish.base import atomic, paths

LOCKED_AFTER_S = 1.0  # another writer holds a lock for milliseconds
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds; we try again ourselves
SQLITE = "sqlite:///"


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME wins; rows of early stages go to `<name>/stages`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "pufferfish"


def folder() -> Path:
    """`<checkout>/mlruns`"""
    return paths.workspace() / "mlruns"


def tracking_uri() -> str:
    """For MLflow, absolute: an experiment that runs in a temporary folder logs to the checkout's store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{folder() / 'mlflow.db'}"


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
    """No telemetry, no question to git at import, one thread, no long wait for a silent server. To be called before MLflow is imported."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", "OMP_NUM_THREADS": "1"}


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


if __name__ == "__main__":
    create_store()
