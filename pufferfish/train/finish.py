"""The trained model as a folder: weights, tokenizer, plan, what really happened."""

from __future__ import annotations

import statistics
from pathlib import Path

from pufferfish.base import atomic
from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.model.load import WEIGHTS
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Outcome, Subset
from pufferfish.train.checkpoint import save_tensors
from pufferfish.train.loop import Training
from pufferfish.train.realised import SCHEDULE, Realised
from pufferfish.train.schedule import lr_share


def save_model(training: Training, plan: Plan, subset: Subset, *, tokenizer: Path, run_key: str, target: Path) -> Outcome:
    """Write the folder beside and move it into place. Raises UserError if that fails, for example on a full disk; checkpoints are still there then."""
    try:
        with atomic.folder(target) as unfinished:
            save_tensors(unfinished / WEIGHTS, training.final_weights())
            atomic.write_bytes(unfinished / "tokenizer.json", tokenizer.read_bytes())
            Realised(training.record.u, training.record.micro_batch, training.environment).save(unfinished / SCHEDULE, plan)
            plan.save(unfinished / "plan.json")
            outcome = _outcome(training, plan, subset, weights_sha256=digest_file(unfinished / WEIGHTS), run_key=run_key)
            outcome.save(unfinished / "outcome.json")
    except OSError as error:
        then = "starts anew" if training.saved_step is None else f"goes on from its last checkpoint, at step {training.saved_step}"
        fix = f"make room there and run `dvc repro`: the training {then}"
        raise UserError("the trained model cannot be saved", saw=f"{error}      ({target})", fix=fix) from None
    return outcome


def _outcome(training: Training, plan: Plan, subset: Subset, *, weights_sha256: str, run_key: str) -> Outcome:
    losses, u = training.record.loss, training.record.u
    return Outcome(
        plan=plan.identity,
        subset=subset.identity,
        weights_sha256=weights_sha256,
        run_key=run_key,
        num_steps=training.step,
        num_tokens=training.num_tokens,
        final_loss=statistics.fmean(losses) if losses else 0.0,
        final_lr_share=lr_share(u[-1], plan.train) if u else 0.0,
        train_s=training.elapsed_s,
        planned_s=plan.budget.phases.train_s,
        median_step_s=training.median_step_s,
        tokens_per_s=training.num_tokens / max(1e-9, training.loop_s),
        peak_memory_bytes=training.peak_memory_bytes,
        num_resumes=training.num_resumes,
        warnings=training.warnings,
    )


def farewell(training: Training) -> str:
    """What an interrupted training leaves behind, and what `dvc repro` will do with it."""
    where, cause = f"stopped at step {training.step}", ", as its loss or gradient is not a number" if training.is_lost else ""
    if training.saved_step == training.step:
        return f"{where}, the work so far is saved; `dvc repro` goes on from here"
    if training.saved_step is None:
        return f"{where}, and nothing could be saved{cause}; `dvc repro` starts anew"
    return f"{where}, which could not be saved{cause}; `dvc repro` goes on from the last good checkpoint, at step {training.saved_step}"
