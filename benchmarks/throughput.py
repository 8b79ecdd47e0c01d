"""throughput: how long does a step take, and does this checkout make it quicker than another one?

    python benchmarks/throughput.py [--against FOLDER] [--only "width"] [--rounds 12] [--json]

Each configuration takes real optimizer steps on random tokens, in a process with the settings of the pipeline. With another checkout, one process of each takes
steps in turn, and the ratio is that of neighbouring turns: whatever the machine does meanwhile, it does to both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from memory import NUM_THREADS, Configuration, plans_of

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4  # of a turn; the quickest counts


def shape(num_layers: int, d_model: int, vocab_size: int, seq_len: int, tokens: int) -> tuple[str, Configuration]:
    """A training as the planner would have it, under its name."""
    name = f"{num_layers} x {d_model}, vocabulary {vocab_size:,}, context {seq_len}, {tokens:,} tokens"
    return name, Configuration(num_layers, d_model, vocab_size, seq_len, tokens_per_step=tokens, micro_tokens=tokens)


CONFIGURATIONS = dict(
    [
        shape(2, 64, 1024, 128, 1024),
        shape(2, 128, 2048, 256, 2048),
        shape(2, 128, 2048, 256, 4096),
        shape(2, 192, 2048, 512, 4096),
        shape(2, 192, 4096, 1024, 4096),
        shape(3, 192, 4096, 256, 4096),
        shape(3, 256, 4096, 1024, 8192),
        shape(4, 256, 8192, 512, 8192),
    ]
)


@dataclass(frozen=True)
class Result:
    """One configuration here, and there where another checkout was given."""

    name: str
    step_s: float
    tokens_per_s: float
    ratio: float | None  # time here over time there
    lowest: float | None  # of the ratios
    highest: float | None


def take_steps(configurations: list[Configuration]) -> None:
    """The other side of `Worker`: for each number of a configuration that is read, the seconds of the quickest of some steps are written."""
    from pufferfish.base.runtime import ensure_runtime

    ensure_runtime(NUM_THREADS)

    import numpy as np

    from pufferfish.train.step import Trainer

    trainers = []
    for each in configurations:
        model, train = plans_of(each, num_steps=100)
        batch = np.random.default_rng(0).integers(0, model.vocab_size, (train.micro_batch, model.seq_len + 1))
        trainers.append((Trainer(model, train), batch))
        trainers[-1][0].dry_step([batch])
    print("ready", flush=True)
    for line in sys.stdin:
        trainer, batch = trainers[int(line)]
        times = []
        for _ in range(1 + STEPS):  # the first one only warms the caches again
            start_s = time.perf_counter()
            trainer.step([batch], lr_share=0.01)
            times.append(time.perf_counter() - start_s)
        print(min(times[1:]), flush=True)


class Worker:
    """A process that takes steps with the code of one checkout when it is told to, and sleeps otherwise."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()

    def step_s(self, number: int) -> float:
        """Seconds of a step of this configuration. Raises RuntimeError if the process has ended."""
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        if line := self._process.stdout.readline():
            return line
        raise RuntimeError("the process that takes steps has ended; its own words are above")


@contextmanager
def working(checkout: Path, only: str) -> Iterator[Worker]:
    """A worker with the code of a checkout; this file and its helper are those of here."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "--work", "--only", only]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Worker(process)
        process.stdin.close()


def compare(worker: Worker, other: Worker | None, number: int, name: str, *, rounds: int) -> Result:
    """Turns of both, each first every other time."""
    times, ratios = [], []
    for turn in range(rounds):
        order = [worker, other] if turn % 2 else [other, worker]
        seconds = {id(each): each.step_s(number) for each in order if each}
        times.append(seconds[id(worker)])
        if other:
            ratios.append(seconds[id(worker)] / seconds[id(other)])
    step_s = statistics.median(times)
    ratio, lowest, highest = (statistics.median(ratios), min(ratios), max(ratios)) if ratios else (None, None, None)
    return Result(name, step_s, CONFIGURATIONS[name].tokens_per_step / step_s, ratio, lowest, highest)


def table(results: list[Result]) -> str:
    """A line for each."""
    lines = [f"{'configuration':58}{'step':>10}{'tokens/s':>12}   here / there"]
    for each in results:
        against = f"   {each.ratio:.3f} ({each.lowest:.3f} to {each.highest:.3f})" if each.ratio else ""
        lines.append(f"{each.name:58}{1000 * each.step_s:7.1f} ms{each.tokens_per_s:12,.0f}{against}")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Time real optimizer steps, here or against another checkout.")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout of this project")
    parser.add_argument("--only", default="", help="configurations whose name contains this")
    parser.add_argument("--rounds", type=int, default=12, help="turns for each configuration (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # as the process that takes steps
    arguments = parser.parse_args()
    chosen = [name for name in CONFIGURATIONS if arguments.only in name]
    if not chosen:
        parser.error(f"no configuration is called like {arguments.only}")
    if arguments.rounds < 1:
        parser.error("--rounds: give 1 or more")
    if arguments.against and not (arguments.against / "pufferfish").is_dir():
        parser.error(f"--against: {arguments.against} is no checkout of this project")
    if arguments.work:
        take_steps([CONFIGURATIONS[name] for name in chosen])
        return
    with ExitStack() as stack:
        worker = stack.enter_context(working(ROOT, arguments.only))
        other = stack.enter_context(working(arguments.against.resolve(), arguments.only)) if arguments.against else None
        results = [compare(worker, other, number, name, rounds=arguments.rounds) for number, name in enumerate(chosen)]
    print(json.dumps([asdict(each) for each in results], indent=2) if arguments.json else table(results))


if __name__ == "__main__":
    main()
