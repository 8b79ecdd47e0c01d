"""All runs in the browser, from the store that they are logged to: `python -m pufferfish.track.browse`, which `make ui` calls."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from urllib.parse import urlsplit

from pufferfish.track import journal, store
from pufferfish.track.clean import without_secrets
from pufferfish.track.tracker import Tracker, start_worker

HOST, PORT = "127.0.0.1", 5000
PAGE = "#/experiments?workflowType=machine_learning"  # MLflow's first page, and that of an experiment, are for agents and their traces
SHOWN_HERE = {"", "file", "sqlite", "postgresql", "mysql", "mssql"}  # folders and databases; what else MLflow can log to is a server that has its own pages


def main() -> None:
    """Become MLflow's server on this machine; for runs that are on another server, say where it is. Rows that still wait are delivered."""
    if (waiting := journal.abandoned()) and not journal.is_attended():
        start_worker(waiting[0], linger_s=Tracker.LINGER_S)
    uri = store.tracking_uri()
    if is_server(uri):
        print(f"MLFLOW_TRACKING_URI names a server, which shows the runs itself: {without_secrets(uri)}")
        return
    print(f"the runs of {without_secrets(uri)} on http://{HOST}:{PORT}/{PAGE} (Ctrl-C ends it)", flush=True)
    with suppress(sqlite3.Error):  # the rows are shown all the same
        store.follow_checkout()
    store.quiet()
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # not as an argument, which every user of the machine could read
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(PORT)])


def is_server(uri: str) -> bool:
    """Whether the runs are behind a server rather than in a folder or a database that can be opened from here."""
    return uri == "databricks" or urlsplit(uri).scheme.split("+")[0] not in SHOWN_HERE


if __name__ == "__main__":
    main()
