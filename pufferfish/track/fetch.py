"""The model of an earlier run, from where runs are kept: `python -m pufferfish.track.fetch RUN FOLDER`.

A process of its own: MLflow takes seconds to import, and the settings that keep it quiet are not those of a training.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from pufferfish.base.errors import UserError
from pufferfish.track import store
from pufferfish.track.clean import without_secrets

FOLDER = "model/model"  # of the run's files, where `training.py` puts the model


def fetch_model(run_id: str, target: Path) -> None:
    """Copy the model of a run into the folder `target`, which must not exist. Raises UserError if there is no such run, or no model with it."""
    command = [sys.executable, "-m", __name__, run_id, str(target)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        saw = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        fix = "take the id of a finished run from `make ui`, or name a folder of artifacts"
        raise UserError(f"the model of run {run_id} cannot be fetched", saw=saw, fix=fix)


def main() -> None:
    """Ends with a message where nothing can be fetched."""
    run_id, target = sys.argv[1], Path(sys.argv[2])
    where = without_secrets(store.tracking_uri())
    if (database := store.database()) and not database.exists():
        sys.exit(f"there are no runs yet in {where}")
    store.quiet()
    from mlflow import MlflowClient

    from pufferfish.track.row import STORE_ERRORS

    beside = target.with_name(f"{target.name}.fetched")
    beside.mkdir(parents=True)
    try:
        store.check_database()
        store.follow_checkout()
        client = MlflowClient(store.tracking_uri())
        if not any(file.path == FOLDER for file in client.list_artifacts(run_id, str(Path(FOLDER).parent))):
            sys.exit(f"the run has no model in {where}")
        Path(client.download_artifacts(run_id, FOLDER, str(beside))).rename(target)
    except (*STORE_ERRORS, sqlite3.Error) as error:
        told = str(error).strip() or type(error).__name__
        sys.exit(f"{told.splitlines()[0]}, in {where}")
    finally:
        shutil.rmtree(beside, ignore_errors=True)


if __name__ == "__main__":
    main()
