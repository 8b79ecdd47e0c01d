"""The recipe that is the same for all sizes: optimizer, learning rates, schedule, and how the run is executed on a device."""

from __future__ import annotations

import math
from typing import Literal

from pufferfish.plan import scaling
from pufferfish.plan.prices import Price
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import DataParams, TrainParams
from pufferfish.schema.plan import ModelPlan, TrainPlan

# Learning rates at the reference width and batch, found by a sweep (docs/LOG.md); Adam's scale with width^-1/2, all with the square root of the batch's
# distance from the one they were found for, but those of orthogonalised matrices below it alone: there the full ones cost 0.5 to 4.6 %.
REFERENCE_WIDTH = 128
REFERENCE_BATCH, REFERENCE_GROWTH = 0.445, 0.5875  # tokens per step: the factor and the power of the training tokens
MATRIX_LR, EMBEDDING_LR, HEAD_LR, GAIN_LR = 0.015, 0.06, 0.015, 0.01
ADAMW_MATRIX_LR = 0.005
WEIGHT_DECAY = 0.05
# With a teacher: by so many e-folds for each reading of the text, and for fewer parameters for each byte of it in proportion (docs/LOG.md).
DECAY_PER_READING, MANY_PER_BYTE = 1.5, 1.4
MOST_READINGS = 16.0  # that a decay was found for
MOST_DECAY = 0.1  # of a weight in one step at the peak rate, where a training has so few that they would wipe it out; a guess
TEACHER_SHARE = 0.5  # of the targets: 0.8 was 3 % worse (docs/LOG.md)
CLIP_NORM = 1.0  # for AdamW; an orthogonalised update does not depend on the size of the gradient
# Of the inputs replaced, in a text that is read four times and more: a tenth was worse in two texts, a fifth in three. After two readings none are best, after
# 2.5 half as many: in between it grows with them (docs/LOG.md).
INPUT_NOISE, FULL_NOISE_EPOCHS = 0.05, 4.0
WARMUP_SHARE, COOLDOWN_SHARE, FINAL_LR_SHARE = 0.02, 0.55, 0.02
TAUGHT_COOLDOWN_SHARE = 0.3  # where an average will be kept: 0.55 was 1.2 % worse, 0.15 as good (docs/LOG.md)

Kernel = Literal["explicit", "sdpa", "flash_attn"]
OLDEST_FLASH = 8.0  # compute capability of Ampere, the oldest that flash-attn 2 serves
LONGEST_EXPLICIT = 2048  # context up to which explicit attention is taken on CPUs
NUM_EVALS = 8
EVAL_SHARE = 0.0015  # of the training time, for one evaluation
CHECKPOINT_SHARE, CHECKPOINT_S = 0.05, (20.0, 600.0)  # of the training time, between two limits


def attention_for(wish: TrainParams, device: str, seq_len: int) -> Kernel:
    """The pinned kernel, or the one that is fastest on the device at this context."""
    if wish.attention != "auto":
        return wish.attention
    return "explicit" if device == "cpu" and seq_len <= LONGEST_EXPLICIT else "sdpa"


def train_plan(
    wish: TrainParams,
    data: DataParams,
    hardware: Hardware,
    model: ModelPlan,
    *,
    dtype: str,
    tokens_per_step: int,
    micro_batch: int,
    num_steps: int,
    train_s: float,
    epochs: float,
    per_byte: float,
    teacher_share: float,
    is_compiled: bool,
    is_checkpointed: bool,
) -> TrainPlan:
    """Everything about training, with the user's pins kept. `per_byte`: parameters for each byte of the text."""
    optimizer = "muon" if wish.optimizer == "auto" else wish.optimizer
    batch_factor = rate_for_batch(tokens_per_step, num_sequences=tokens_per_step // model.seq_len, tokens=num_steps * tokens_per_step)
    width_factor = (REFERENCE_WIDTH / model.d_model) ** 0.5
    usual = MATRIX_LR * min(1.0, batch_factor) if optimizer == "muon" else ADAMW_MATRIX_LR * width_factor * batch_factor
    matrix_lr = usual if wish.learning_rate == "auto" else wish.learning_rate
    others = batch_factor * width_factor * matrix_lr / usual
    decay = max(WEIGHT_DECAY, min(MOST_DECAY, decay_to_forget(epochs, per_byte) / num_steps) / matrix_lr) if teacher_share else WEIGHT_DECAY
    is_timed = wish.num_steps == "auto"
    warmup_share, cooldown_share = schedule_shares(wish, is_taught=teacher_share > 0)
    return TrainPlan(
        device="cuda" if hardware.fingerprint.device == "cuda" else "cpu",
        num_threads=hardware.fingerprint.num_threads,
        memory_bytes=hardware.usable_memory_bytes,
        dtype=dtype,
        attention=attention_for(wish, hardware.fingerprint.device, model.seq_len),
        is_compiled=is_compiled,
        is_checkpointed=is_checkpointed,
        optimizer=optimizer,
        matrix_lr=matrix_lr,
        embedding_lr=(HEAD_LR if model.is_tied else EMBEDDING_LR) * others,  # a tied table is a head first of all
        head_lr=HEAD_LR * others,
        gain_lr=GAIN_LR * others,
        weight_decay=decay if wish.weight_decay == "auto" else wish.weight_decay,
        clip_norm=(0.0 if optimizer == "muon" else CLIP_NORM) if wish.clip_norm == "auto" else wish.clip_norm,
        micro_batch=micro_batch,
        tokens_per_step=tokens_per_step,
        clock="deadline" if is_timed else "steps",
        num_steps=num_steps if is_timed else int(wish.num_steps),
        warmup_share=warmup_share,
        cooldown_share=cooldown_share,
        final_lr_share=FINAL_LR_SHARE,
        input_noise=usual_noise(epochs) if wish.input_noise == "auto" else wish.input_noise,
        teacher_share=teacher_share,
        num_evals=NUM_EVALS,
        eval_tokens=max(model.seq_len, int(EVAL_SHARE * 3 * num_steps * tokens_per_step)),
        checkpoint_interval_s=min(CHECKPOINT_S[1], max(CHECKPOINT_S[0], CHECKPOINT_SHARE * train_s)),
        seed=wish.seed,
        data_seed=data.seed,
    )


def schedule_shares(wish: TrainParams, *, is_taught: bool) -> tuple[float, float]:
    """Of warm-up and cooldown; what is not pinned leaves room for what is, so that the peak is reached."""
    usual = TAUGHT_COOLDOWN_SHARE if is_taught else COOLDOWN_SHARE
    cooldown = usual if wish.cooldown_share == "auto" else wish.cooldown_share
    warmup = min(WARMUP_SHARE, 1 - cooldown) if wish.warmup_share == "auto" else wish.warmup_share
    return warmup, min(cooldown, 1 - warmup)


def rate_for_batch(tokens_per_step: int, *, num_sequences: int, tokens: int) -> float:
    """By which factor rates differ from those at the reference batch. Tokens of less than four sequences say much the same, and count for fewer."""
    independent = tokens_per_step * math.sqrt(min(1.0, num_sequences / scaling.ENOUGH_SEQUENCES))
    return min(2.0, max(0.5, math.sqrt(independent / (REFERENCE_BATCH * tokens**REFERENCE_GROWTH))))


def decay_to_forget(epochs: float, per_byte: float) -> float:
    """By how many e-folds the matrices of a taught model decay in a training at the peak rate, with so many parameters for each byte of its text."""
    return DECAY_PER_READING * min(epochs, MOST_READINGS) * min(1.0, per_byte / MANY_PER_BYTE)


def usual_noise(epochs: float) -> float:
    """Share of inputs to replace in a text that is read so many times."""
    grown = (epochs - scaling.NOISE_EPOCHS) / (FULL_NOISE_EPOCHS - scaling.NOISE_EPOCHS)
    return round(INPUT_NOISE * min(1.0, max(0.0, grown)), 3)


def embedding_params(model: ModelPlan, price: Price) -> int:
    """Of embedding, head, lookup and gains: of all but the matrices of the blocks."""
    return price.num_params - price.matmul_params + model.vocab_size * model.d_model
