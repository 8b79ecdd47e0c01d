"""deadline: does a cold `dvc repro` end when the budget ends?

    python benchmarks/deadline.py --budgets 60s,3m --runs 3 [--corpus path] [--json]

Each run happens in a fresh copy of this checkout in a temporary folder: nothing is cached, nothing is measured yet, only the installed environment and the
machine are the same. Spent is the time from the start of the probe's process to the end of the export's, as the stages stamp it themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from pufferfish.base.units import format_duration, parse_duration

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
FIRST, LAST = "hardware-probe", "export"


@dataclass(frozen=True)
class Run:
    """One cold pipeline."""

    budget_s: float
    spent_s: float
    stages_s: dict[str, float]
    val_bpb: float
    forecast_bpb: float

    @property
    def late_s(self) -> float:
        """Seconds after the end of the budget; negative is early."""
        return self.spent_s - self.budget_s

    @property
    def used_share(self) -> float:
        """Spent over budget."""
        return self.spent_s / self.budget_s


def copy_project(folder: Path) -> None:
    """What git knows and what is new here, as a repository of its own without any result."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, folder / name
        if source.is_file() and not name.startswith(("artifacts/", "dvc.lock")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], cwd=folder, check=True)


def environment(folder: Path) -> dict[str, str]:
    """The copy's own code comes before the checkout's, and nothing of the user's tracking is touched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def run_once(budget: str, corpus: str) -> Run:
    """Raises CalledProcessError, with the pipeline's last words on the screen, if a stage fails."""
    with tempfile.TemporaryDirectory(prefix="pufferfish-deadline-") as name:
        folder = Path(name)
        copy_project(folder)
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["budget"]["time"] = budget
        if corpus:
            params["data"] |= {"source": "text", "path": str(Path(corpus).resolve())}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        # The set-up creates the store before any budget starts; so does this.
        subprocess.run([sys.executable, "-m", "pufferfish.track.store"], cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
        subprocess.run([BIN / "dvc", "repro"], cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
        return read_run(folder, parse_duration(budget))


def read_run(folder: Path, budget_s: float) -> Run:
    """What the stages wrote down."""
    stamps = {path.stem: json.loads(path.read_text()) for path in (folder / "artifacts" / "timing").glob("*.json")}
    evaluation = json.loads((folder / "artifacts" / "evaluation.json").read_text())
    return Run(
        budget_s=budget_s,
        spent_s=stamps[LAST]["end_s"] - stamps[FIRST]["start_s"],
        stages_s={name: stamps[name]["elapsed_s"] for name in sorted(stamps, key=lambda each: stamps[each]["start_s"])},
        val_bpb=evaluation["val_bpb"],
        forecast_bpb=evaluation["forecast_bpb"],
    )


def table(runs: list[Run]) -> str:
    """One line for each run, one for each budget."""
    lines = [f"{'planned':>10} {'spent':>10} {'late':>9} {'used':>7} {'val bpb':>8} {'forecast':>8}   by stage"]
    for budget_s in dict.fromkeys(run.budget_s for run in runs):
        same = [run for run in runs if run.budget_s == budget_s]
        for run in same:
            stages = ", ".join(f"{name} {elapsed_s:.1f}" for name, elapsed_s in run.stages_s.items())
            times = f"{format_duration(budget_s):>10} {run.spent_s:8.2f} s {run.late_s:+7.2f} s {run.used_share:7.1%}"
            lines.append(f"{times} {run.val_bpb:8.4f} {run.forecast_bpb:8.4f}   {stages}")
        worst = f"latest {max(run.late_s for run in same):+.2f} s ({max(run.late_s for run in same) / budget_s:+.2%})"
        lines.append(
            f"{'':>10} {worst}, least used {min(run.used_share for run in same):.1%}, median {statistics.median(run.val_bpb for run in same):.4f} bits per byte"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every budget as often as wished, round by round, so that a slow hour of the machine meets all of them."""
    parser = argparse.ArgumentParser(description="Run whole cold pipelines and compare the time planned with the time spent.")
    parser.add_argument("--budgets", default="60s,3m", help="durations, separated by commas (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each budget (default: %(default)s)")
    parser.add_argument("--corpus", default="", help="a text file or folder; default: the embedded source")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    arguments = parser.parse_args()
    runs = []
    for number in range(arguments.runs):
        for budget in arguments.budgets.split(","):
            print(f"--- run {number + 1} of {arguments.runs}, {budget}", file=sys.stderr, flush=True)
            runs.append(run_once(budget, arguments.corpus))
    print(json.dumps([asdict(run) for run in runs], indent=2) if arguments.json else table(sorted(runs, key=lambda run: run.budget_s)))


if __name__ == "__main__":
    main()
