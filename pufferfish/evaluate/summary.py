"""The whole evaluation: the model's score, what it beats, samples; as one artifact and as a few lines for the screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import torch

from pufferfish.base.errors import UserError
from pufferfish.data.shards import open_tokens, read_validation_text
from pufferfish.data.tokenizer import load_tokenizer
from pufferfish.evaluate.baselines import Baselines
from pufferfish.evaluate.samples import beginnings, write_samples
from pufferfish.evaluate.validation import Validation, as_trained, evaluate_validation
from pufferfish.generate.engine import Engine
from pufferfish.model.load import load_model
from pufferfish.schema.params import EvaluateParams
from pufferfish.schema.plan import Plan, TrainedPlan
from pufferfish.schema.reports import Evaluation, Outcome, Subset

Say = Callable[[str], None]
SAMPLES_S, SAMPLES_SHARE = 1.0, 0.6  # at least, and of the estimated time of the evaluation: three of 80 tokens take half a second of a small model, a fifth


def evaluate_model(
    params: EvaluateParams, model_folder: Path, *, subset: Subset, subset_folder: Path, baselines: Callable[[], Baselines], say: Say
) -> tuple[Evaluation, str]:
    """The evaluation and the samples as Markdown. `subset` is the manifest of its folder, `baselines` are asked for last, `say` hears what each part cost.

    Raises UserError if the model was trained on another subset, if its device is gone, or if files are missing or changed.
    """
    outcome = Outcome.load(model_folder / "outcome.json")
    if outcome.subset != subset.identity:
        saw = f"subset {subset.identity}, trained on {outcome.subset}"
        raise UserError("the model was trained on another text", saw=saw, fix="run `dvc repro`")
    trained = TrainedPlan.load(model_folder / "plan.json")
    device = trained.train.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("the model is evaluated where it was trained", saw="no CUDA device", fix="run `dvc repro`: another machine has another plan")
    validation_N = open_tokens(subset_folder, subset.validation, subset.token_dtype)
    with timed("model loaded", say):
        model, plan = load_model(model_folder, device=device)
    with timed("samples", say):
        prompts = beginnings(read_validation_text(subset_folder)) if params.prompts == "auto" else params.prompts
        samples = write_samples(Engine(model, load_tokenizer(model_folder / "tokenizer.json")), prompts, params, limit_s=samples_limit_s(trained))
    with timed(f"{len(validation_N)} tokens of validation text in {plan.train.dtype}", say):
        validation = evaluate_validation(as_trained(model, plan.train), validation_N, num_bytes=subset.validation.num_bytes)
    return make_evaluation(validation, baselines(), plan=plan, weights_sha256=outcome.weights_sha256), samples


def samples_limit_s(plan: Plan) -> float:
    """The time for samples: nobody plans for long ones, and the deadline is kept. None is kept where the steps are counted. It is a share of the bare
    estimate: what samples took must not give them more time in the next plan."""
    return max(SAMPLES_S, SAMPLES_SHARE * plan.budget.phases.evaluate_s / plan.budget.reserve_factor) if plan.train.clock == "deadline" else math.inf


@contextmanager
def timed(name: str, say: Say) -> Iterator[None]:
    """Say how long the block took."""
    start_s = time.perf_counter()
    yield
    say(f"{name} ({time.perf_counter() - start_s:.2f} s)")


def make_evaluation(validation: Validation, baselines: Baselines, *, plan: Plan, weights_sha256: str) -> Evaluation:
    """Everything that was found, beside what the plan expected."""
    return Evaluation(
        weights_sha256=weights_sha256,
        val_bpb=validation.bpb,
        val_loss_nats=validation.loss_nats,
        perplexity=validation.perplexity,
        num_tokens=validation.num_tokens,
        num_bytes=validation.num_bytes,
        forecast_bpb=plan.forecast.val_bpb,
        baselines=baselines.bpb,
        ngram_tokens=baselines.ngram_tokens,
    )


def compared(plan: Plan, outcome: Outcome, evaluation: Evaluation) -> dict[str, float]:
    """The few numbers that experiments are compared by: each is a column of DVC's tables, which are as wide as there are numbers."""
    return {
        "val_bpb": evaluation.val_bpb,
        "forecast_bpb": evaluation.forecast_bpb,
        "num_params": plan.forecast.num_params,
        "trained_tokens": outcome.num_tokens,
        "train_s": round(outcome.train_s, 1),
    }


def tracked_metrics(evaluation: Evaluation) -> dict[str, float]:
    """What the tracking room stores, by name."""
    metrics = {
        "evaluation/val_bpb": evaluation.val_bpb,
        "evaluation/val_loss_nats": evaluation.val_loss_nats,
        "evaluation/perplexity": evaluation.perplexity,
        "evaluation/forecast_error": evaluation.val_bpb / evaluation.forecast_bpb - 1,
    }
    return metrics | {f"baseline/{name}": bpb for name, bpb in evaluation.baselines.items()}


def describe(evaluation: Evaluation) -> str:
    """The scores from the worst to the best, in bits per byte."""
    scores = sorted([*evaluation.baselines.items(), ("this model", evaluation.val_bpb)], key=itemgetter(1), reverse=True)
    rows = [f"  {bpb:7.4f}  {name}" for name, bpb in scores]
    forecast = f"forecast {evaluation.forecast_bpb:.4f}, perplexity {evaluation.perplexity:.2f} per token"
    return "\n".join([f"evaluate: {evaluation.val_bpb:.4f} bits per byte ({forecast})", *rows])
