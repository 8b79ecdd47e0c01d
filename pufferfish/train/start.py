"""A training from the artifacts on disk: its data mapped, its share of the time computed; or the repetition of one, without a clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from pufferfish.base import clock, paths
from pufferfish.base.errors import UserError
from pufferfish.base.timing import Timing, read_timing
from pufferfish.base.units import format_duration
from pufferfish.data.shards import open_tokens
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Outcome, Subset
from pufferfish.train.loop import Corpora, Training
from pufferfish.train.realised import Realised
from pufferfish.train.share import BEFORE, train_share_s

# Writing the model, handing the last numbers to tracking, ending the process: 0.1 s for small models, 1.6 s for 124 million parameters (docs/LOG.md).
FINISH_S, FINISH_S_PER_PARAM = 0.4, 1.3e-8
SHORTEST_S = 1.0  # a training that starts late still trains for a moment, and says so


def start_training(plan: Plan, subset: Subset, work: Path, *, started_s: float, should_stop: Callable[[], bool]) -> Training:
    """`started_s` is the start of this process on the boot clock. Raises UserError if the subset was prepared for another plan."""
    if (subset.corpus, subset.vocab_size) != (plan.data.corpus, plan.data.vocab_size):
        saw = f"corpus {subset.corpus}, vocabulary {subset.vocab_size}; the plan wants {plan.data.corpus}, {plan.data.vocab_size}"
        raise UserError(f"{paths.SUBSET} was prepared for another plan", saw=saw, fix="run `dvc repro`")
    timings = {name: read_timing(paths.timing(name)) for name in BEFORE}
    share_s = train_share_s(plan.budget, timings, own=Timing(clock.boot_id(), started_s, started_s))
    finish_s = FINISH_S + FINISH_S_PER_PARAM * plan.forecast.num_params
    least_s = SHORTEST_S + clock.now_s() - started_s + finish_s
    corpora = _open_corpora(paths.SUBSET, subset)
    training = Training(plan, corpora, work, share_s=max(share_s, least_s), start_s=started_s, finish_s=finish_s, should_stop=should_stop)
    if share_s < least_s:
        costs = ", ".join(f"{name} {format_duration(timing.elapsed_s)}" for name, timing in timings.items() if timing)
        training.warnings.append(f"the stages before left {format_duration(max(0.0, share_s))} for training, which is too little: {costs}")
    return training


def start_replay(plan: Plan, subset_folder: Path, subset: Subset, work: Path, *, outcome: Outcome, recorded: Realised) -> Training:
    """The recorded steps again, and nothing that leaves the weights alone: no evaluations, no checkpoints. Expected to take as long as the first time."""
    train = plan.train.model_copy(update={"num_evals": 0, "checkpoint_interval_s": math.inf})
    plan = plan.model_copy(update={"train": train})
    corpora = _open_corpora(subset_folder, subset)
    return Training(plan, corpora, work, share_s=outcome.train_s, start_s=clock.now_s(), finish_s=0.0, recorded=recorded)


def _open_corpora(folder: Path, subset: Subset) -> Corpora:
    train, validation = (open_tokens(folder, shard, subset.token_dtype) for shard in (subset.train, subset.validation))
    return Corpora(train, validation, subset.validation.num_bytes / subset.validation.num_tokens)
