"""artifacts/plan.json: what will be done, fully resolved: no null, no "auto". DVC watches its sections one by one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pufferfish.schema.artifact import Artifact, Strict

STAGES = ("hardware-probe", "plan", "prepare-subset", "train", "evaluate", "export")  # in their order
NUM_PAUSES = len(STAGES) - 1  # DVC's, between two of them


class Phases(Strict):
    """Seconds of the budget by stage, each from the start of its process, as planned."""

    hardware_probe_s: float
    plan_s: float
    prepare_subset_s: float
    train_s: float
    evaluate_s: float
    export_s: float
    between_s: float  # all pauses between stages together


class BudgetPlan(Strict):
    """How the time is divided. `train` owns what is left of `total_s` when it starts, less `reserve_s`."""

    total_s: float
    reserve_s: float  # evaluate, export and their process starts
    reserve_factor: float  # on what evaluate and export are estimated to take: a margin, and how wrong the estimate was on this machine
    unused_s: float  # of the training's time, as planned: to read the text again would do more harm than good, so it ends after the planned steps
    phases: Phases


class DataPlan(Strict):
    """What is prepared. Nothing here depends on the optimizer, so that another one prepares nothing anew."""

    source: str
    path: str
    corpus: str  # Corpus.content
    validation_path: str
    validation_content: str
    validation_share: float  # of the documents' bytes, where no validation text is given
    max_validation_bytes: int
    vocab_size: int
    tokenizer_bytes: int  # sample of training text that the tokenizer learns from
    train_bytes: int  # training text to encode, at most
    seed: int


class ModelPlan(Strict):
    """A decoder of a stock architecture, Qwen3 with QK-norm, Llama without, and perhaps a table beside it."""

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    seq_len: int
    rope_theta: float
    norm_eps: float
    is_tied: bool
    has_qk_norm: bool
    lookup: Literal["none", "value", "bigram"]  # a table: of values for tokens, or of embeddings for pairs of tokens; no stock architecture has one


class TrainPlan(Strict):
    """How it is trained."""

    device: Literal["cpu", "cuda"]
    num_threads: int
    memory_bytes: int  # of the device that may be used; an accelerator is held to it
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Literal["explicit", "sdpa", "flash_attn"]
    is_compiled: bool
    is_checkpointed: bool
    optimizer: str
    matrix_lr: float
    embedding_lr: float
    head_lr: float
    gain_lr: float  # of the query and key norms
    weight_decay: float  # of the matrices; per step it shrinks them by lr * weight_decay
    clip_norm: float  # 0: no clipping
    micro_batch: int  # sequences
    tokens_per_step: int
    clock: Literal["deadline", "steps"]
    num_steps: int  # expected under the deadline clock, exact under the step clock
    warmup_share: float
    cooldown_share: float
    final_lr_share: float
    input_noise: float  # share of the inputs that are replaced by random tokens
    teacher_share: float  # of each target that an average of the last weights gives, which is what will be kept; 0: the text gives all of it
    num_evals: int  # during training
    eval_tokens: int  # in each
    checkpoint_interval_s: float
    seed: int
    data_seed: int


class Forecast(Strict):
    """What the plan expects to see."""

    val_bpb: float
    val_bpb_low: float  # 80 % interval
    val_bpb_high: float
    law: int  # which version of the loss law made it
    correction: float  # that it holds, from earlier trainings on this text, short ones among them; 1: there were none
    is_free: bool  # nothing that decides the quality was pinned
    step_s: float
    tokens: int
    epochs: float
    peak_memory_bytes: int
    num_params: int
    flops_per_token: float


class Candidate(Strict):
    """One configuration that was considered."""

    vocab_size: int
    num_layers: int
    d_model: int
    seq_len: int
    tokens_per_step: int
    num_params: int
    is_compiled: bool
    predicted_step_s: float
    measured_step_s: float  # with what measurements of others say of it; 0: not measured
    tokens: int
    val_bpb: float
    verdict: str


class Why(Strict):
    """For people; watched by nobody."""

    reasons: list[str]
    candidates: list[Candidate]


class Plan(Artifact):
    """The decision."""

    SCHEMA_VERSION: ClassVar[int] = 5
    MADE_BY: ClassVar[str] = "plan"

    hardware: str  # identity of the machine it was made for
    budget: BudgetPlan
    data: DataPlan
    model: ModelPlan
    train: TrainPlan
    forecast: Forecast
    why: Why


class TrainedPlan(Plan):
    """The copy beside the weights of a model: what was in force when it was trained."""

    MADE_BY: ClassVar[str] = "train"
