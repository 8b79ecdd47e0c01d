"""One row: an MLflow run, found by its key or created, that takes the messages of a journal."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pufferfish.track import journal, store
from pufferfish.track.artifact import holds

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)  # the store does not answer now; sqlite3.Error joins in `worker`
REFUSED = ("INVALID_PARAMETER_VALUE", "INVALID_STATE")  # the store answers, and will never take this
RUN_KEY = "pufferfish.run_key"
MAX_PARAMS = 100  # in one batch; limits of the store
MAX_METRICS = 1000
SYSTEM = "system/"


class Row:
    """The run of one key. Every method raises one of STORE_ERRORS when the store does not answer; nothing is half done then that a repetition would double."""

    def __init__(self, client: MlflowClient, start: journal.Message, warn: Callable[[str], None]) -> None:
        self._client, self._warn = client, warn
        run = find_or_create(client, start, warn)
        self.run_id: str = run.info.run_id
        self.start_s: float = run.info.start_time / 1000
        self._known_params = set(run.data.params)
        self._last_steps = self._read_last_steps(run) if start["is_resumed"] else {}
        self._ended_ms = 0 if run.info.status == "RUNNING" else run.info.end_time or 0

    def _read_last_steps(self, run: Run) -> dict[str, int]:
        """For each metric the step from which a resumed training goes on: what the interrupted one logged is not logged again."""
        keys = [key for key in run.data.metrics if not key.startswith(SYSTEM)]
        return {key: max(point.step for point in self._client.get_metric_history(self.run_id, key)) for key in keys}

    def deliver(self, pending: deque[journal.Message]) -> None:
        """Log the messages in order and remove each from `pending` once it is in the store."""
        while pending:
            batch = self._head(pending)
            try:
                self._log(batch)
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                self._warn(f"the store refused {batch[0]['type']}: {str(error).splitlines()[0]}")
            for _ in batch:
                pending.popleft()

    def reopen(self) -> None:
        """Work on this row goes on."""
        if self._ended_ms:
            self._client.update_run(self.run_id, status="RUNNING")
            self._ended_ms = 0

    def end(self, status: str, at_s: float) -> None:
        """FINISHED, FAILED or KILLED, unless later work has ended the row already."""
        end_ms = round(at_s * 1000)  # what the store keeps: within one millisecond the first end counts
        if end_ms > self._ended_ms:
            self._client.set_terminated(self.run_id, status=status, end_time=end_ms)

    def _head(self, pending: deque[journal.Message]) -> list[journal.Message]:
        """The first message, or as many lines of metrics as fit into one batch."""
        batch: list[journal.Message] = []
        num_metrics = 0
        for message in pending:
            num_metrics += len(message.get("values", ()))
            if batch and (message["type"] != "metrics" or batch[0]["type"] != "metrics" or num_metrics > MAX_METRICS):
                break
            batch.append(message)
        return batch

    def _log(self, batch: list[journal.Message]) -> None:
        message = batch[0]
        match message["type"]:
            case "metrics":
                metrics = [metric for line in batch for metric in self._metrics(line)]
                for first in range(0, len(metrics), MAX_METRICS):
                    self._client.log_batch(self.run_id, metrics=metrics[first : first + MAX_METRICS])
            case "params":
                self._log_params(message["values"])
            case "tags":
                tags = [RunTag(key, value) for key, value in message["values"].items()]
                self._client.log_batch(self.run_id, tags=tags)
            case "text":
                self._client.log_text(self.run_id, message["text"], message["name"])
            case "artifact":
                self._log_artifact(Path(message["path"]), message["folder"], message.get("content"))

    def _metrics(self, line: journal.Message) -> Iterable[Metric]:
        for key, value in line["values"].items():
            if line["step"] > self._last_steps.get(key, -1):
                yield Metric(key, value, round(line["at_s"] * 1000), line["step"])

    def _log_params(self, values: dict[str, str]) -> None:
        """Parameters are written once; a later stage repeats them so that a lost row can be rebuilt."""
        params = [Param(key, value) for key, value in values.items() if key not in self._known_params]
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=params[first : first + MAX_PARAMS])
        self._known_params |= set(values)

    def _log_artifact(self, path: Path, folder: str, content: str | None) -> None:
        """Copy what was noted, or tell that it is there no more. Journals of older versions do not say what was noted: whatever is there is copied."""
        if not (path.exists() if content is None else holds(path, content)):
            what = "changed" if path.exists() else "was gone"
            self._warn(f"the artifact {path} {what} before it was copied: the row {self.run_id} is without it")
        elif path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), f"{folder}/{path.name}" if folder else path.name)
        else:
            self._client.log_artifact(self.run_id, str(path), folder or None)


def find_or_create(client: MlflowClient, start: journal.Message, warn: Callable[[str], None]) -> Run:
    """The run with this key; a new one where the store does not know it (a new server, a colleague's checkout)."""
    journal.folder().mkdir(parents=True, exist_ok=True)
    with FileLock(os.fspath(journal.folder() / ".rows.lock")):
        experiment_id = find_or_create_experiment(client, start["experiment"], warn)
        found = client.search_runs([experiment_id], filter_string=f"tags.`{RUN_KEY}` = '{start['run_key']}'", max_results=1)
        if found:
            return found[0]
        return client.create_run(experiment_id, start_time=round(start["at_s"] * 1000), tags={RUN_KEY: start["run_key"]}, run_name=start["run_name"])


def find_or_create_experiment(client: MlflowClient, name: str, warn: Callable[[str], None]) -> str:
    """The id of the experiment. One that was deleted in MLflow still owns its name, and takes rows again only if it is restored."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=store.artifact_location()))
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment.experiment_id)
        warn(f"the experiment {name} had been deleted in MLflow: a new row restored it, and the older rows with it")
    return str(experiment.experiment_id)
