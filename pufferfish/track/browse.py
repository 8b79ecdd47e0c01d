"""All runs in the browser, from the store that they are logged to: `python -m pufferfish.track.browse`, which `make ui` calls."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from contextlib import suppress
from urllib.parse import urlsplit

from pufferfish.base.errors import UserError
from pufferfish.base.stage import EXIT_USER_ERROR
from pufferfish.track import journal, store
from pufferfish.track.clean import without_secrets
from pufferfish.track.tracker import Tracker, start_worker

HOST, PORT, LAST_PORT = "127.0.0.1", 5000, 65535
PORT_VARIABLE = "PUFFERFISH_UI_PORT"
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
    try:
        port = wanted_port(os.environ.get(PORT_VARIABLE, "").strip())
    except UserError as error:
        print(f"ui: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(f"the runs of {without_secrets(uri)} on http://{HOST}:{port}/{PAGE} (Ctrl-C ends it)", flush=True)
    with suppress(sqlite3.Error):  # the rows are shown all the same
        store.follow_checkout()
    store.quiet()
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # not as an argument, which every user of the machine could read
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)])


def wanted_port(written: str) -> int:
    """The usual port, or the one that was written. Raises UserError for what is no port."""
    if not written:
        return PORT
    if not re.fullmatch("[0-9]{1,5}", written) or not 1 <= int(written) <= LAST_PORT:
        fix = f"give a number from 1 to {LAST_PORT}, for example {PORT_VARIABLE}={PORT + 1}"
        raise UserError("the port is not right", saw=f"{PORT_VARIABLE}={written}", fix=fix)
    return int(written)


def is_server(uri: str) -> bool:
    """Whether the runs are behind a server rather than in a folder or a database that can be opened from here."""
    return uri == "databricks" or urlsplit(uri).scheme.split("+")[0] not in SHOWN_HERE


if __name__ == "__main__":
    main()
