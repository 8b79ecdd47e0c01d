"""What the later stages report: the prepared subset, the trained model, its evaluation and export."""

from __future__ import annotations

from typing import ClassVar

from pufferfish.schema.artifact import Artifact, Strict


class Shard(Strict):
    """One memory-mapped file of token ids."""

    file: str
    sha256: str
    num_tokens: int
    num_documents: int
    num_bytes: int  # of raw text


class Subset(Artifact):
    """artifacts/subset/manifest.json"""

    SCHEMA_VERSION: ClassVar[int] = 2
    MADE_BY: ClassVar[str] = "prepare-subset"

    corpus: str  # Corpus.content that it was made from
    vocab_size: int
    separator_id: int
    token_dtype: str  # uint16 or uint32
    tokenizer_sha256: str
    train: Shard
    validation: Shard
    validation_text_sha256: dict[str, str]  # by file: the raw text, and where its documents begin
    corpus_train_bytes: int  # all there is, of which train.num_bytes are encoded
    bytes_per_token: float  # of the training part


class Outcome(Artifact):
    """artifacts/model/outcome.json: what training really did."""

    SCHEMA_VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "train"

    plan: str  # Plan.identity
    subset: str  # Subset.identity
    weights_sha256: str
    run_key: str  # names the row in tracking
    num_steps: int
    num_tokens: int
    final_loss: float  # nats per token, mean over the last steps
    final_lr_share: float
    train_s: float  # from the start of the process to the end of the loop, interruptions left out
    planned_s: float
    median_step_s: float
    tokens_per_s: float
    peak_memory_bytes: int
    num_resumes: int
    warnings: list[str]


class Evaluation(Artifact):
    """artifacts/evaluation.json"""

    SCHEMA_VERSION: ClassVar[int] = 2
    MADE_BY: ClassVar[str] = "evaluate"

    weights_sha256: str
    val_bpb: float
    val_loss_nats: float  # per token
    perplexity: float
    num_tokens: int  # predicted, each once
    num_bytes: int
    forecast_bpb: float
    baselines: dict[str, float]  # what is simple to beat, in bits per byte of the same text; DVC shows numbers by their keys, and no lists
    ngram_tokens: int  # of the training text, that the n-gram among the baselines counted


class ExportReport(Artifact):
    """artifacts/export/<format>.json, for example hf.json beside the folder hf."""

    SCHEMA_VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "export"

    weights_sha256: str
    folder: str
    architecture: str
    num_bytes: int
    max_logit_difference: float
    num_texts_compared: int
