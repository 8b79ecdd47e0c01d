"""regret: how far is the planner's choice from the best that a search finds at equal total time?

    python benchmarks/regret.py --budgets 60s,2m --corpora stdlib,path --runs 25 [--out runs.jsonl] [--seeds 1] [--repeat 1] [--in-turn] [--json]

For each corpus and budget: one cold pipeline with everything `auto`; coordinate descent from its choice, each neighbour a whole cold pipeline of the same
budget with its values pinned, so that everything is paid from the same time; and the rivals, as whole pipelines too: the classic time table, a model with 20
tokens for each parameter, and random configurations. A pinned plan hands the time that it does not need for choosing to training, so what choosing costs is
part of the regret. Export is left out; what it is estimated to take is planned all the same, and who leaves less is late. What the planner refuses is
illegal, and no run.

Regret is the planner's bits per byte over the best found, less one. The best of many noisy runs is lucky: `--repeat` runs the planner's and the best
configuration again, with other initial weights, and compares them pairwise. On a machine that others use, the luckiest is who ran while they slept: with
`--in-turn` each configuration is planned for its budget, its steps and those of the planner's choice are taken in turn, and it is trained for as many steps as
there is time for at the pace that this says, however long they take; none is late then. What the first run finds of the machine holds for all. Every finished
run is a line in the file `--out`: called again with the same file, the benchmark goes on where it was. All runs of a call use the code as it was when the call
began.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pipeline
from descent import Configuration, descend, draw, grids_around
from ledger import Case, Ledger, Order, Result, Run
from report import Study, summarise, table
from runners import InTurn, run_pipeline

from pufferfish.base.digest import digest_files
from pufferfish.base.errors import UserError
from pufferfish.base.stage import EXIT_USER_ERROR
from pufferfish.base.units import format_duration
from pufferfish.plan.prices import Price, PriceOf
from pufferfish.plan.recipe import attention_for
from pufferfish.plan.space import LAYERS, models
from pufferfish.schema.params import ModelParams, TrainParams
from pufferfish.schema.plan import ModelPlan

OUT = pipeline.ROOT / ".pufferfish"  # a file for each version of the code: what another one reached says nothing of this one
COMPILE_FROM_S = 300.0  # of budget: below, a compilation takes too much of it to be worth a run
RATIO, ASPECT, VOCABULARY, CONTEXT = 20.0, 64, 4096, 256  # tokens for each parameter (Hoffmann et al., 2022, arXiv 2203.15556) at a conventional shape
MOST_DRAWS = 50  # until a random configuration is legal


@dataclass(frozen=True)
class Wishes:
    """What each case gets."""

    num_runs: int  # of the search
    num_seeds: int
    num_repeats: int

    @property
    def after_search(self) -> int:
        """Runs that remain when the search has ended: table, 20 tokens for each parameter, random ones, and pairs."""
        return 2 + self.num_seeds + 2 * self.num_repeats


class Laboratory:
    """Runs what is wanted, each order once, and tells how long the rest may take."""

    def __init__(self, ledger: Ledger, runner: Callable[[Order], Result], cases: list[Case], wishes: Wishes, *, code: str, tell: Callable[[str], None]) -> None:
        self.ledger, self._runner, self._code, self._tell = ledger, runner, code, tell
        self._left = dict.fromkeys(cases, 1 + wishes.num_runs + wishes.after_search)

    def run(self, order: Order, role: str) -> Run:
        """What the file holds, or a new run."""
        run = self.ledger.find(order) or self._new(order, role)
        self._left[order.case] -= run.is_legal
        return run

    def expect(self, case: Case, num_runs: int) -> None:
        """So many runs of a case are left at most."""
        self._left[case] = num_runs

    @property
    def left_s(self) -> float:
        """Time that all runs may still take."""
        return sum(num_runs * case.budget_s for case, num_runs in self._left.items())

    def _new(self, order: Order, role: str) -> Run:
        pins = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in order.pins.items())
        self._tell(f"--- {order.case}: {role} ({pins or 'all auto'}); about {format_duration(self.left_s)} left at most")
        result = self._runner(order)
        run = Run(role, order, result, self._code, platform.node(), datetime.now().astimezone().isoformat(timespec="seconds"))
        self.ledger.add(run)
        self._tell(f"    {run.failing or f'{result.val_bpb:.4f} bits per byte in {format_duration(result.spent_s)}'}")
        return run


def study(case: Case, laboratory: Laboratory, wishes: Wishes, *, price_of: PriceOf) -> Study:
    """Planner, search, rivals, and the pairs that compare the best with the planner once more."""
    planner = laboratory.run(Order(case, {}), "planner")
    if planner.result.refused_by:
        laboratory.expect(case, 0)
        return Study(planner, [planner], {}, [])
    choice, with_compile = Configuration(**planner.result.configuration), case.budget_s >= COMPILE_FROM_S

    def evaluate(configuration: Configuration) -> float | None:
        run = laboratory.run(Order(case, asdict(configuration)), "search")
        return run.score if run.is_legal else None

    descend(choice, planner.score, grids_around(choice, with_compile=with_compile), evaluate, max_runs=wishes.num_runs)
    laboratory.expect(case, wishes.after_search)
    rivals = {
        "table": [laboratory.run(Order(case, {"strategy": "table"}), "table")],
        "20 per parameter": [laboratory.run(Order(case, twenty_tokens_per_parameter(planner.result, price_of)), "20 per parameter")],
        "random": [run for seed in range(wishes.num_seeds) for run in random_run(case, laboratory, choice, seed, with_compile=with_compile)],
    }
    laboratory.expect(case, 2 * wishes.num_repeats)
    runs = laboratory.ledger.of(case)
    pins = min(runs, key=lambda run: run.score).order.pins  # none where the planner's own run is the best
    pairs = [
        (laboratory.run(Order(case, {}, seed), "planner again"), laboratory.run(Order(case, pins, seed), "best again"))
        for seed in range(1, wishes.num_repeats + 1)
        if pins
    ]
    laboratory.expect(case, 0)
    return Study(planner, runs, rivals, pairs)


def twenty_tokens_per_parameter(planner: Result, price_of: PriceOf) -> dict[str, Any]:
    """Pins of the model of the conventional shape that the planner's FLOPs would train on about 20 tokens for each parameter."""

    def model_of(num_layers: int) -> ModelPlan:
        wish = ModelParams(num_layers=num_layers, d_model=ASPECT * num_layers, seq_len=CONTEXT)
        return next(models(wish, [VOCABULARY], max_seq_len=CONTEXT))

    def distance(num_layers: int) -> float:
        price = price_of(model_of(num_layers), attention_for(TrainParams(), planner.device, CONTEXT))
        tokens = planner.tokens * planner.flops_per_token / price.flops_per_token
        return abs(math.log(tokens / price.num_params / RATIO))

    num_layers = min(LAYERS, key=distance)
    return {"num_layers": num_layers, "d_model": ASPECT * num_layers, "vocab_size": VOCABULARY, "seq_len": CONTEXT}


def random_run(case: Case, laboratory: Laboratory, choice: Configuration, seed: int, *, with_compile: bool) -> list[Run]:
    """A run of the first legal configuration drawn; none where many draws gave none."""
    drawn = islice(draw(choice, seed, with_compile=with_compile), MOST_DRAWS)
    runs = (laboratory.run(Order(case, asdict(configuration)), "random") for configuration in drawn)
    return list(islice((run for run in runs if run.is_legal), 1))


def price_here(model: ModelPlan, attention: str) -> Price:
    """What a model costs."""
    from pufferfish.model.price import decoder_price

    return decoder_price(model, attention=attention)


def main() -> None:
    """Study all cases, one after the other, and compare."""
    parser = argparse.ArgumentParser(description="Compare the planner's choice with the best that a search finds at equal total time.")
    pipeline.add_cases(parser, budgets="60s,2m")
    parser.add_argument("--runs", type=int, default=25, help="of each search, at most (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        help="file of all runs, one JSON line each; those in it are not run again (default: in .pufferfish, one for each version of the code)",
    )
    parser.add_argument("--seeds", type=int, default=1, help="random configurations of each case (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=0, help="times that the planner's and the best configuration are run again (default: %(default)s)")
    parser.add_argument("--in-turn", action="store_true", help="count the steps that there is time for by paces that are compared in turn")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    arguments = parser.parse_args()
    cases = [Case(corpus, budget) for corpus in arguments.corpora for budget in arguments.budgets]
    wishes = Wishes(arguments.runs, arguments.seeds, arguments.repeat)
    with tempfile.TemporaryDirectory(prefix="pufferfish-regret-") as name:
        project = Path(name)
        pipeline.copy_project(project)
        code = digest_files(
            [(path.relative_to(project).as_posix(), path) for room in ("pufferfish", "stages") for path in sorted((project / room).rglob("*.py"))]
        )
        out = arguments.out or OUT / f"regret-{'in-turn-' if arguments.in_turn else ''}{code}.jsonl"
        ledger = Ledger(out)
        if ledger.runs:
            print(f"--- {out} has {len(ledger.runs)} runs, which are not run again", file=sys.stderr, flush=True)
        if any(bool(run.result.plan) != arguments.in_turn for run in ledger.runs if run.role == "planner" and not run.result.refused_by):
            parser.error(f"--out: {out} holds runs {'against the clock' if arguments.in_turn else 'of steps counted in turn'}: give another file")
        laboratory = Laboratory(
            ledger,
            InTurn(ledger, project=project) if arguments.in_turn else partial(run_pipeline, project=project),
            cases,
            wishes,
            code=code,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        try:
            studies = [study(case, laboratory, wishes, price_of=price_here) for case in cases]
        except UserError as error:
            print(f"regret: {error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
    summaries = [summarise(each) for each in studies]
    print(json.dumps([asdict(each) for each in summaries], indent=2) if arguments.json else table(summaries))


if __name__ == "__main__":
    main()
