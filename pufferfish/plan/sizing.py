"""What any configuration would cost on a machine, without training it: parameters, arithmetic, memory, days."""

from __future__ import annotations

from dataclasses import dataclass

from pufferfish.plan import scaling, speed
from pufferfish.plan.candidate import held
from pufferfish.plan.configure import Situation, bare, fitted, whole_tokens_per_step
from pufferfish.plan.memory import PROCESS_BYTES, USABLE_SHARE
from pufferfish.plan.prices import Price, PriceOf
from pufferfish.plan.scaling import Text
from pufferfish.plan.speed import Machine
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import DataParams, TrainParams
from pufferfish.schema.plan import ModelPlan, TrainPlan

TOKENS_PER_PARAMETER = 20  # Hoffmann et al., 2022, arXiv 2203.15556
FORWARD_SHARE = 1 / 3  # of the arithmetic of training
EAGER = TrainParams(compile=False)


@dataclass(frozen=True)
class Sizing:
    """One configuration on one machine. Times are predicted from the machine's speeds, good to some ten per cent where these were measured."""

    model: ModelPlan
    train: TrainPlan
    num_params: int
    embedding_params: int
    head_params: int  # 0: the embedding
    block_params: int  # and what else there is
    train_flops_per_token: float
    forward_flops_per_token: float
    training_bytes: dict[str, int]  # at the peak, by term
    inference_bytes: dict[str, int]  # one sequence as long as the context
    usable_bytes: int
    fits: bool  # the training into memory
    tokens: int
    tokens_per_s: float
    train_s: float


def size_up(model: ModelPlan, hardware: Hardware, price_of: PriceOf, wish: TrainParams = EAGER, *, tokens: int | None = None) -> Sizing:
    """The usual recipe, but for what is wished, for so many tokens, by default 20 for each parameter. A training that does not fit is sized at its smallest."""
    situation = Situation(Machine(hardware), DataParams(), wish, price_of, Text(1.0, 1.0), lambda vocabulary: 0.0)
    price = price_of(model, situation.attention(model.seq_len))
    tokens = tokens or TOKENS_PER_PARAMETER * price.num_params
    tokens_per_step = whole_tokens_per_step(situation, model, scaling.best_tokens_per_step(tokens))
    fitting = fitted(situation, model, price, tokens_per_step=tokens_per_step, is_compiled=False)
    train = fitting or bare(situation, model, tokens_per_step=tokens_per_step, is_compiled=False, is_checkpointed=True)
    if wish.micro_batch != "auto":
        train = train.model_copy(update={"micro_batch": wish.micro_batch})
    table = model.vocab_size * model.d_model
    head = 0 if model.is_tied else table
    pace = train.tokens_per_step / speed.step_seconds(situation.machine, price, model, train)
    return Sizing(
        model=model,
        train=train,
        num_params=price.num_params,
        embedding_params=table,
        head_params=head,
        block_params=price.num_params - table - head,
        train_flops_per_token=price.flops_per_token,
        forward_flops_per_token=FORWARD_SHARE * price.flops_per_token,
        training_bytes=vars(held(model, price, train)),
        inference_bytes=inference_bytes(model, price, train),
        usable_bytes=round(USABLE_SHARE * hardware.usable_memory_bytes),
        fits=fitting is not None,
        tokens=tokens,
        tokens_per_s=pace,
        train_s=tokens / pace,
    )


def inference_bytes(model: ModelPlan, price: Price, train: TrainPlan) -> dict[str, int]:
    """What writing text holds, in the dtype of training: keys and values of one whole context."""
    element_bytes = 4 if train.dtype == "float32" else 2
    cached = 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.seq_len
    return {"process": PROCESS_BYTES[train.device], "weights": element_bytes * price.num_params, "cache": element_bytes * cached}
