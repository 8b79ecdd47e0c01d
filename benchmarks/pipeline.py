"""Whole cold pipelines in temporary folders, for the benchmarks beside this file.

Each runs in a fresh copy of this checkout: nothing is cached, nothing is measured yet, only the installed environment and the machine are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

from pufferfish.base.units import parse_duration
from pufferfish.schema.params import Params

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
FIRST = "hardware-probe"
STDLIB = "stdlib"  # the embedded corpus; every other one is a path
REFUSAL = re.compile(r"failed to run: python stages/(\w+)\.py, exited with 2\b")  # DVC's word for a stage that ended with a user's mistake
LOG, LAST_WORDS = "repro.log", 4000  # characters
LONGEST_WAIT_S = 30.0  # tracking tries a silent store for 20 s after a stage has ended
LOOK_S = 0.2  # between two looks for stragglers

Settings = Mapping[str, Mapping[str, Any]]  # by section of params.yaml


class Refused(Exception):
    """A stage called the settings a mistake of the user."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(text)
        self.stage, self.text = stage, text


def add_cases(parser: argparse.ArgumentParser, *, budgets: str) -> None:
    """The options that say what to run: `--budgets`, with a default, and `--corpora`."""
    parser.add_argument("--budgets", type=durations, default=budgets, help="durations, separated by commas (default: %(default)s)")
    parser.add_argument(
        "--corpora",
        type=corpora,
        default=STDLIB,
        help="text files or folders, separated by commas; those with `train` and `validation` bring both (default: %(default)s, embedded)",
    )


def durations(text: str) -> list[str]:
    """Raises ValueError for what is none."""
    for part in text.split(","):
        parse_duration(part)
    return text.split(",")


def corpora(text: str) -> list[str]:
    """The embedded source, and full paths. Raises ArgumentTypeError where there is nothing."""
    found = [part if part == STDLIB else str(Path(part).resolve()) for part in text.split(",")]
    if missing := [part for part in found if part != STDLIB and not Path(part).exists()]:
        raise argparse.ArgumentTypeError(f"there is no {missing[0]}")
    return found


def copy_project(folder: Path, *, source: Path = ROOT) -> None:
    """What git knows and what is new there, as a repository of its own without any result."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=source, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        old, new = source / name, folder / name
        if old.is_file() and not name.startswith(("artifacts/", "dvc.lock")):
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old, new)
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], cwd=folder, check=True)


def environment(folder: Path) -> dict[str, str]:
    """The copy's own code comes before the checkout's, what is compiled is compiled anew, and nothing of the user's tracking is touched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    caches = {f"{name}_CACHE_DIR": str(folder / ".pufferfish" / name.lower()) for name in ("TORCHINDUCTOR", "TRITON")}
    return kept | caches | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def settings_for(budget: str, corpus: str) -> dict[str, dict[str, Any]]:
    """Sections of params.yaml for a budget and a corpus; a folder that holds `train` and `validation` has its own text to measure on."""
    if corpus == STDLIB:
        return {"budget": {"time": budget}, "data": {"source": STDLIB, "path": ""}}
    folder = Path(corpus).resolve()
    train, validation = folder / "train", folder / "validation"
    data = {"path": str(train), "validation": str(validation)} if train.exists() and validation.exists() else {"path": str(folder)}
    return {"budget": {"time": budget}, "data": {"source": "text"} | data}


@contextmanager
def cold_project(settings: Settings, *, source: Path = ROOT) -> Iterator[Path]:
    """A copy in a temporary folder, with these settings in its params.yaml and everything else as it is by default."""
    with tempfile.TemporaryDirectory(prefix="pufferfish-benchmark-") as name:
        folder = Path(name)
        copy_project(folder, source=source)
        set_params(folder, settings)
        # The set-up creates the store before any budget starts; so does this.
        subprocess.run([sys.executable, "-m", "pufferfish.track.store"], cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
        try:
            yield folder
        finally:
            wait_for_stragglers(folder)


def set_params(folder: Path, settings: Settings) -> None:
    """These settings in its params.yaml, and everything else as it is by default: the checkout's file may hold what somebody tries."""
    params = Params().model_dump(mode="json")
    for section, values in settings.items():
        params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), "utf-8")


def wait_for_stragglers(folder: Path) -> None:
    """What still delivers to tracking when the pipeline is over ends soon, and disturbs neither the next run nor the removal of the folder."""
    end_s = time.monotonic() + LONGEST_WAIT_S
    while time.monotonic() < end_s and any(is_about(process, folder) for process in psutil.process_iter()):
        time.sleep(LOOK_S)


def is_about(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was given something in the folder."""
    try:
        return any(str(folder) in argument for argument in process.cmdline())
    except psutil.Error:  # ended, or of somebody else
        return False


def dvc_repro(*targets: str) -> list[str]:
    """The command."""
    return [str(BIN / "dvc"), "repro", *targets]


def run(command: list[str], folder: Path, *, output: IO[str], attend: Callable[[subprocess.Popen[bytes]], object] = subprocess.Popen.wait) -> None:
    """Run a command in the folder; `attend` has to wait for its end. Raises CalledProcessError if it fails."""
    with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=output, stderr=output) as process:
        attend(process)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def reproduce_quietly(folder: Path, *targets: str) -> None:
    """Raises Refused where a stage refuses the settings, and CalledProcessError, with the pipeline's last words on the screen, where it fails otherwise."""
    log = folder / LOG
    try:
        with log.open("w", encoding="utf-8") as output:
            run(dvc_repro(*targets), folder, output=output)
    except subprocess.CalledProcessError:
        words = log.read_text("utf-8")
        if refused := refusal_in(words):
            raise refused from None
        print(words[-LAST_WORDS:], file=sys.stderr)
        raise


def refusal_in(words: str) -> Refused | None:
    """What a stage refused, in its own lines, if the pipeline ended with that."""
    if not (match := REFUSAL.search(words)):
        return None
    stage = match[1].replace("_", "-")
    told = re.search(rf"^{stage}: (.*?^\s*fix: [^\n]*)", words, re.MULTILINE | re.DOTALL)
    return Refused(stage, told[1] if told else match[0])


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One artifact."""
    return json.loads((folder / "artifacts" / name).read_text("utf-8"))


def read_stamps(folder: Path) -> dict[str, dict[str, Any]]:
    """When each stage started and ended, as it stamped it itself, in the order in which they ran."""
    stamps = [json.loads(path.read_text("utf-8")) | {"stage": path.stem} for path in (folder / "artifacts" / "timing").glob("*.json")]
    return {stamp["stage"]: stamp for stamp in sorted(stamps, key=lambda stamp: stamp["start_s"])}


def spent_s(stamps: Mapping[str, Mapping[str, Any]], *, last: str) -> float:
    """From the start of the probe's process to the end of the last stage."""
    return float(stamps[last]["end_s"] - stamps[FIRST]["start_s"])
