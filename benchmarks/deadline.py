"""deadline: does a cold `dvc repro` end when the budget ends, and was it forecast well?

    python benchmarks/deadline.py --budgets 60s,3m --runs 3 [--corpora stdlib,path] [--disturb core] [--not-portable] [--json]

Each run happens in a fresh copy of this checkout as it was when the call began (pipeline.py). Spent is the time from the start of the probe's process to the
end of the export's, as the stages stamp it themselves.

A disturbance comes when half of the budget has passed since DVC was started: `core` keeps one core busy from then to the end, `disk` writes to the disk of
the run from then to the end, `memory` takes all but a gigabyte of what is free and writes to all of it, which keeps a core busy, from then to the end, `stop`
stops the training process for ten seconds, as a suspended laptop would.

`--not-portable` allows the planner what no stock runtime can carry (`model.portable: false`); the table says what it took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pipeline
import psutil

from pufferfish.base.units import format_bytes, format_duration, parse_duration
from pufferfish.probe.memory import available_memory_bytes

LAST = "export"
TRAINING = "stages/train.py"
STOP_S = 10.0
LOOK_S = 0.1  # between two looks for the training process
BUSY_CORE = "while True: pass"
BUSY_DISK = """
import os, sys
block = os.urandom(1 << 24)
with open(sys.argv[1], "wb") as file:
    while True:
        file.seek(0)
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
"""
LEFT_BYTES = 1_000_000_000  # of free memory
BUSY_MEMORY = """
import sys
block = bytearray(int(sys.argv[1]))
touches = bytes(len(range(0, len(block), 4096)))
while True:
    block[::4096] = touches
"""


@dataclass(frozen=True)
class Run:
    """One cold pipeline."""

    corpus: str
    disturbance: str
    budget_s: float
    spent_s: float
    stages_s: dict[str, float]
    val_bpb: float
    forecast_bpb: float
    forecast_low_bpb: float  # 80 % interval
    forecast_high_bpb: float
    step_s: float  # median
    forecast_step_s: float
    peak_memory_bytes: int
    forecast_memory_bytes: int
    final_lr_share: float  # of the peak, in the last step
    lookup: str  # the table beside the model, as planned

    @property
    def late_s(self) -> float:
        """Seconds after the end of the budget; negative is early."""
        return self.spent_s - self.budget_s

    @property
    def used_share(self) -> float:
        """Spent over budget."""
        return self.spent_s / self.budget_s

    @property
    def forecast_error(self) -> float:
        """How far the forecast was off, as a share of the outcome."""
        return abs(self.forecast_bpb / self.val_bpb - 1)

    @property
    def is_within(self) -> bool:
        """Whether the 80 % interval covered the outcome."""
        return self.forecast_low_bpb <= self.val_bpb <= self.forecast_high_bpb


def run_once(budget: str, *, corpus: str, disturbance: str, is_portable: bool, project: Path) -> Run:
    """Raises CalledProcessError, with the pipeline's last words on the screen, if a stage fails."""
    settings = pipeline.settings_for(budget, corpus) | {"model": {"portable": is_portable}}
    with pipeline.cold_project(settings, source=project) as folder:
        run_disturbed(pipeline.dvc_repro(), folder, disturbance, after_s=parse_duration(budget) / 2)
        return read_run(folder, parse_duration(budget), corpus=corpus, disturbance=disturbance)


def run_disturbed(command: list[str], folder: Path, disturbance: str, *, after_s: float) -> None:
    """Run the command in the folder and disturb it when it has run so long. Raises CalledProcessError if it fails."""

    def attend(process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            with DISTURBANCES[disturbance](psutil.Process(process.pid), folder):
                process.wait()

    pipeline.run(command, folder, output=sys.stderr, attend=attend)


@contextmanager
def beside(code: str, *arguments: str) -> Iterator[None]:
    """A Python process that does not end by itself."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def training_stopped(dvc: psutil.Process, folder: Path) -> Iterator[None]:
    """The training process stands still for `STOP_S`, then goes on."""
    training = find_training(dvc)
    print(f"--- training stands still for {STOP_S:.0f} s", file=sys.stderr, flush=True)
    training.suspend()
    try:
        time.sleep(STOP_S)
    finally:
        training.resume()
    yield


def find_training(dvc: psutil.Process) -> psutil.Process:
    """The process of the train stage, waited for where an earlier stage is still at work. Raises LookupError if the pipeline ends without one."""
    while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
        for process in dvc.children(recursive=True):
            try:
                if TRAINING in process.cmdline():  # an argument of its own: the shell around it has the whole command in one
                    return process
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        time.sleep(LOOK_S)
    raise LookupError("the training was over before it could be stopped")


DISTURBANCES: dict[str, Callable[[psutil.Process, Path], AbstractContextManager[None]]] = {
    "none": lambda dvc, folder: nullcontext(),
    "core": lambda dvc, folder: beside(BUSY_CORE),
    "stop": training_stopped,
    "disk": lambda dvc, folder: beside(BUSY_DISK, str(folder / "disturbance.tmp")),
    "memory": lambda dvc, folder: beside(BUSY_MEMORY, str(max(0, available_memory_bytes() - LEFT_BYTES))),
}


def read_run(folder: Path, budget_s: float, *, corpus: str, disturbance: str) -> Run:
    """What the stages wrote down."""
    plan = pipeline.read_json(folder, "plan.json")
    forecast = plan["forecast"]
    outcome = pipeline.read_json(folder, "model/outcome.json")
    stamps = pipeline.read_stamps(folder)
    return Run(
        corpus=corpus,
        disturbance=disturbance,
        budget_s=budget_s,
        spent_s=pipeline.spent_s(stamps, last=LAST),
        stages_s={name: stamp["elapsed_s"] for name, stamp in stamps.items()},
        val_bpb=pipeline.read_json(folder, "evaluation.json")["val_bpb"],
        forecast_bpb=forecast["val_bpb"],
        forecast_low_bpb=forecast["val_bpb_low"],
        forecast_high_bpb=forecast["val_bpb_high"],
        step_s=outcome["median_step_s"],
        forecast_step_s=forecast["step_s"],
        peak_memory_bytes=outcome["peak_memory_bytes"],
        forecast_memory_bytes=forecast["peak_memory_bytes"],
        final_lr_share=outcome["final_lr_share"],
        lookup=plan["model"]["lookup"],
    )


def table(runs: list[Run]) -> str:
    """One line for each run, three for each budget."""
    time_head = f"{'planned':>10} {'spent':>10} {'late':>9} {'used':>7}"
    head = f"{time_head} {'val bpb':>8} {'forecast':>8} {'80 % interval':>16} {'step':>9} {'planned':>9} {'memory':>9} {'planned':>9}   text and stages"
    lines = [head]
    for budget_s in dict.fromkeys(run.budget_s for run in runs):
        same = [run for run in runs if run.budget_s == budget_s]
        lines += [*map(run_line, same), *(f"{'':>10} {line}" for line in budget_lines(same))]
    return "\n".join(lines)


def run_line(run: Run) -> str:
    """Time, quality, pace and memory of one run, each beside what was planned."""
    times = f"{format_duration(run.budget_s):>10} {run.spent_s:8.2f} s {run.late_s:+7.2f} s {run.used_share:7.1%}"
    quality = f"{run.val_bpb:8.4f} {run.forecast_bpb:8.4f} {run.forecast_low_bpb:8.4f}{run.forecast_high_bpb:8.4f}"
    pace = f"{1e3 * run.step_s:6.1f} ms {1e3 * run.forecast_step_s:6.1f} ms"
    memory = f"{format_bytes(run.peak_memory_bytes):>9} {format_bytes(run.forecast_memory_bytes):>9}"
    stages = ", ".join(f"{name} {elapsed_s:.1f}" for name, elapsed_s in run.stages_s.items())
    table = f" with a {run.lookup} table" if run.lookup != "none" else ""
    return f"{times} {quality} {pace} {memory}   {Path(run.corpus).name}{table}: {stages}"


def budget_lines(same: list[Run]) -> list[str]:
    """What the runs of one budget have in common: the time they used, how well they were forecast, what they cost against the plan."""
    used, late_s, errors = ([getattr(run, name) for run in same] for name in ("used_share", "late_s", "forecast_error"))
    return [
        f"used: mean {statistics.fmean(used):.1%}, least {min(used):.1%}, latest {max(late_s):+.2f} s ({max(late_s) / same[0].budget_s:+.2%}); "
        f"last learning rate at most {max(run.final_lr_share for run in same):.1%} of the peak",
        f"quality: median {medians_bpb(same)} bits per byte; forecast off by {statistics.median(errors):.1%} in the median, "
        f"{max(errors):.1%} at worst, its 80 % interval held {sum(run.is_within for run in same)} of {len(same)}",
        f"found / planned: step time {spread([run.step_s / run.forecast_step_s for run in same])}, "
        f"peak memory {spread([run.peak_memory_bytes / run.forecast_memory_bytes for run in same])}",
    ]


def medians_bpb(same: list[Run]) -> str:
    """Of each text, since bits per byte of two texts cannot be compared; with its name where there are several."""
    texts = {corpus: statistics.median(run.val_bpb for run in same if run.corpus == corpus) for corpus in dict.fromkeys(run.corpus for run in same)}
    return ", ".join(f"{median_bpb:.4f} ({Path(corpus).name})" if len(texts) > 1 else f"{median_bpb:.4f}" for corpus, median_bpb in texts.items())


def spread(ratios: list[float]) -> str:
    """Median, and from where to where."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Run every budget as often as wished, round by round, so that a slow hour of the machine meets all of them."""
    parser = argparse.ArgumentParser(description="Run whole cold pipelines and compare the time planned with the time spent.")
    pipeline.add_cases(parser, budgets="60s,3m")
    parser.add_argument("--runs", type=int, default=3, help="of each budget with each text (default: %(default)s)")
    parser.add_argument("--disturb", choices=DISTURBANCES, default="none", help="what happens at half time (default: %(default)s)")
    parser.add_argument("--not-portable", action="store_true", help="allow tables that no stock runtime can carry")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    arguments = parser.parse_args()
    cases = [(corpus, budget) for _ in range(arguments.runs) for corpus in arguments.corpora for budget in arguments.budgets]
    runs = []
    with tempfile.TemporaryDirectory(prefix="pufferfish-deadline-") as name:
        project = Path(name)
        pipeline.copy_project(project)
        for number, (corpus, budget) in enumerate(cases, 1):
            print(f"--- run {number} of {len(cases)}: {corpus}, {budget}", file=sys.stderr, flush=True)
            runs.append(run_once(budget, corpus=corpus, disturbance=arguments.disturb, is_portable=not arguments.not_portable, project=project))
            print(f"--- {run_line(runs[-1])}", file=sys.stderr, flush=True)
    print(json.dumps([asdict(run) for run in runs], indent=2) if arguments.json else table(sorted(runs, key=lambda run: run.budget_s)))


if __name__ == "__main__":
    main()
