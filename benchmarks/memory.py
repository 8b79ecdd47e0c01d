"""memory: how far is the peak of memory that the planner predicts from the real one?

    python benchmarks/memory.py [--only "width"] [--steps 20] [--json]

Each configuration changes one thing of the first. It trains in a fresh process with the settings of the pipeline, on random tokens, with one validation in the
middle and the running average of the weights; the peak is read as the training reads its own. Real over predicted is wanted at 1; above, a training that was
planned to fit may not.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pufferfish.base.clock import now_s
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.units import format_bytes
from pufferfish.model.price import decoder_price
from pufferfish.plan.memory import Memory, memory_of
from pufferfish.plan.recipe import attention_for, embedding_params
from pufferfish.plan.space import models
from pufferfish.schema.params import ModelParams, TrainParams
from pufferfish.schema.plan import BudgetPlan, Forecast, ModelPlan, Plan, TrainPlan

NUM_TRAIN_TOKENS, NUM_VALIDATION_TOKENS = 300_000, 100_000
NUM_THREADS = 2


@dataclass(frozen=True)
class Configuration:
    """What is varied; everything else as the planner has it."""

    num_layers: int = 2
    d_model: int = 128
    vocab_size: int = 2048
    seq_len: int = 256
    tokens_per_step: int = 8192
    micro_tokens: int = 8192
    dtype: str = "bfloat16"
    optimizer: str = "muon"
    is_checkpointed: bool = False


CONFIGURATIONS = {
    "first": Configuration(),
    "1 layer": Configuration(num_layers=1),
    "6 layers": Configuration(num_layers=6),
    "width 64": Configuration(d_model=64),
    "width 384": Configuration(d_model=384),
    "vocabulary 512": Configuration(vocab_size=512),
    "vocabulary 8,192": Configuration(vocab_size=8192),
    "vocabulary 16,384, in chunks": Configuration(vocab_size=16384),
    "context 128": Configuration(seq_len=128),
    "context 512": Configuration(seq_len=512),
    "context 1,024": Configuration(seq_len=1024),
    "context 2,048": Configuration(seq_len=2048),
    "context 4,096, fused": Configuration(seq_len=4096),
    "2,048 tokens": Configuration(tokens_per_step=2048, micro_tokens=2048),
    "16,384 tokens": Configuration(tokens_per_step=16384, micro_tokens=16384),
    "micro-batches of 2,048": Configuration(micro_tokens=2048),
    "float32": Configuration(dtype="float32"),
    "adamw": Configuration(optimizer="adamw"),
    "recomputed": Configuration(is_checkpointed=True),
    "of a minute": Configuration(d_model=96, seq_len=128, tokens_per_step=4096, micro_tokens=4096),
    "of three minutes": Configuration(d_model=192, vocab_size=4096, tokens_per_step=4096, micro_tokens=4096),
    "of ten minutes": Configuration(num_layers=3, d_model=256, vocab_size=4096, seq_len=1024),
    "of an hour": Configuration(num_layers=4, d_model=384, vocab_size=8192, seq_len=2048),
}


@dataclass(frozen=True)
class Result:
    """One configuration."""

    name: str
    predicted_bytes: int
    real_bytes: int

    @property
    def ratio(self) -> float:
        """Real over predicted."""
        return self.real_bytes / self.predicted_bytes


def plans_of(configuration: Configuration, *, num_steps: int) -> tuple[ModelPlan, TrainPlan]:
    """The planner's model of this shape, and a training of counted steps with one validation. Learning rates are nothing that memory depends on."""
    wish = ModelParams(num_layers=configuration.num_layers, d_model=configuration.d_model, seq_len=configuration.seq_len)
    model = next(models(wish, [configuration.vocab_size], max_seq_len=configuration.seq_len))
    rates = dict.fromkeys(("matrix_lr", "embedding_lr", "head_lr", "gain_lr"), 0.01)
    train = TrainPlan(
        device="cpu", num_threads=NUM_THREADS, memory_bytes=0, dtype=configuration.dtype,
        attention=attention_for(TrainParams(), "cpu", model.seq_len), is_compiled=False,
        is_checkpointed=configuration.is_checkpointed, optimizer=configuration.optimizer, **rates, weight_decay=0.05, clip_norm=1.0,
        micro_batch=configuration.micro_tokens // model.seq_len, tokens_per_step=configuration.tokens_per_step, clock="steps", num_steps=num_steps,
        warmup_share=0.02, cooldown_share=0.55, final_lr_share=0.02, input_noise=0.0, teacher_share=0.0, num_evals=1, eval_tokens=8192,
        checkpoint_interval_s=1e9, seed=0, data_seed=0,
    )  # fmt: skip
    return model, train


def predicted(model: ModelPlan, train: TrainPlan) -> Memory:
    """What the planner says."""
    price = decoder_price(model, attention=train.attention)
    return memory_of(price, train, seq_len=model.seq_len, embedding_params=embedding_params(model, price))


def real_bytes(model: ModelPlan, train: TrainPlan) -> int:
    """What a training of this process holds at its peak."""
    ensure_runtime(NUM_THREADS)

    import numpy as np
    import torch

    from pufferfish.train.loop import Corpora, Training
    from pufferfish.train.memory import used_bytes

    random = np.random.default_rng(0)
    corpora = Corpora(*(random.integers(0, model.vocab_size, count).astype(np.uint16) for count in (NUM_TRAIN_TOKENS, NUM_VALIDATION_TOKENS)), 3.0)
    budget, forecast = BudgetPlan.model_construct(reserve_s=0.0), Forecast.model_construct(num_params=0, step_s=1.0)  # all that training reads of them
    plan = Plan.model_construct(budget=budget, model=model, train=train, forecast=forecast)
    with tempfile.TemporaryDirectory(prefix="pufferfish-memory-") as folder:
        training = Training(plan, corpora, Path(folder), share_s=math.inf, start_s=now_s(), finish_s=0.0)
        for _ in training.run():
            pass
    return max(training.peak_memory_bytes, used_bytes(torch.device("cpu")))  # the training looks only now and then


def measure(name: str, *, num_steps: int) -> Result:
    """In a fresh process. Raises CalledProcessError where that fails."""
    command = [sys.executable, __file__, "--one", name, "--steps", str(num_steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Result(name, predicted(*plans_of(CONFIGURATIONS[name], num_steps=num_steps)).total, int(done.stdout))


def table(results: list[Result]) -> str:
    """A line for each, and how far off they are altogether."""
    lines = [f"{'configuration':30}{'predicted':>12}{'real':>12}{'real / predicted':>18}"]
    lines += [f"{each.name:30}{format_bytes(each.predicted_bytes):>12}{format_bytes(each.real_bytes):>12}{each.ratio:18.2f}" for each in results]
    ratios, errors = sorted(each.ratio for each in results), sorted(abs(each.ratio - 1) for each in results)
    nearly_all = errors[math.ceil(0.95 * len(errors)) - 1]
    return "\n".join(
        [
            *lines,
            f"real / predicted: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}; "
            f"off by {statistics.median(errors):.1%} in the median, by {nearly_all:.1%} at most in 95 % of them",
        ]
    )


def main() -> None:
    """Measure what is asked for, one after the other."""
    parser = argparse.ArgumentParser(description="Compare the peak memory that the planner predicts with that of real trainings.")
    parser.add_argument("--only", default="", help="configurations whose name contains this")
    parser.add_argument("--steps", type=int, default=20, help="of each training (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--one", choices=CONFIGURATIONS, help=argparse.SUPPRESS)  # in this process, for the benchmark itself
    arguments = parser.parse_args()
    if arguments.one:
        print(real_bytes(*plans_of(CONFIGURATIONS[arguments.one], num_steps=arguments.steps)))
        return
    results = []
    for name in CONFIGURATIONS:
        if arguments.only in name:
            print(f"--- {name}", file=sys.stderr, flush=True)
            results.append(measure(name, num_steps=arguments.steps))
    if not results:
        parser.error(f"no configuration is called like {arguments.only}")
    print(json.dumps([asdict(each) for each in results], indent=2) if arguments.json else table(results))


if __name__ == "__main__":
    main()
