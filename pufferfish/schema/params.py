"""params.yaml: what the user wishes. Everything may be `auto`; what is pinned is honoured or refused, never replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from pufferfish.base import units
from pufferfish.base.registry import MENU
from pufferfish.schema.artifact import Strict
from pufferfish.schema.document import Document, validate

T = TypeVar("T")
Auto = Literal["auto"]
OrAuto = Annotated[
    Annotated[T, Tag("pinned")] | Annotated[Auto, Tag("auto")],
    Discriminator(lambda value: "auto" if value == "auto" else "pinned"),
]


def _check_size(text: str) -> str:
    if units.parse_bytes(text) == 0:
        raise ValueError("a size must be greater than zero")
    return text


def _one_of(kind: str) -> Any:
    def check(name: str) -> str:
        if name not in MENU[kind]:
            raise ValueError(f"{name} is not a {kind}: use one of {', '.join(sorted(MENU[kind]))}")
        return name

    return AfterValidator(check)


Count = Annotated[int, Field(strict=True, ge=1, le=10**12)]
Rate = Annotated[float, Field(gt=0, le=10)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[str, AfterValidator(_check_size)]


class BudgetParams(Strict):
    """What it may cost."""

    time: str = Field("3m", description="wall clock of a cold `dvc repro`, start of the probe to end of the export")

    @field_validator("time", mode="before")
    @classmethod
    def _is_a_duration(cls, value: Any) -> Any:
        example = "write a number and a unit, for example 36s, 3m, 1.5h or 1h30m"
        if not isinstance(value, str):
            raise ValueError(f"not a duration: {example}")
        try:
            time_s = units.parse_duration(value)
        except ValueError:
            raise ValueError(f"not a duration: {example}") from None
        if time_s <= 0:
            raise ValueError(f"no time at all: {example}")
        return value

    @property
    def time_s(self) -> float:
        """The budget in seconds."""
        return units.parse_duration(self.time)


class HardwareProbeParams(Strict):
    """What of the machine may be used."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; what is named here and absent is an error")
    memory: OrAuto[Size] = Field("auto", description="a cap on memory, for example 4GB")
    threads: OrAuto[Count] = Field("auto", description="CPU threads; auto takes the cores this process may use")


class PlanParams(Strict):
    """How the plan is made."""

    strategy: Literal["measured"] = Field("measured", description="measured: price a grid, measure the best few, choose")


class DataParams(Strict):
    """What to learn from."""

    source: Annotated[str, _one_of("source")] = Field("stdlib", description="stdlib (embedded), or text (`path`)")
    path: str = Field("", description="text: a file with one document per line, or a folder with one document per file")
    validation: str = Field("auto", description="your own validation text, like `path`; auto holds documents back")
    vocab_size: OrAuto[Annotated[int, Field(strict=True, ge=260, le=65536)]] = Field("auto", description="size of the byte-level BPE vocabulary")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="which documents are held back, and the order of training")

    @model_validator(mode="after")
    def _path_goes_with_text(self) -> Self:
        if (self.source == "text") != bool(self.path):
            raise ValueError("path and source do not fit: give `path` with `source: text`, and only then")
        return self


class ModelParams(Strict):
    """The shape of the model."""

    num_layers: OrAuto[Count] = Field("auto", description="decoder layers")
    d_model: OrAuto[Count] = Field("auto", description="width of the residual stream")
    num_heads: OrAuto[Count] = Field("auto", description="query heads")
    num_kv_heads: OrAuto[Count] = Field("auto", description="key/value heads; divides num_heads")
    d_ff: OrAuto[Count] = Field("auto", description="width of the SwiGLU feed-forward layer")
    seq_len: OrAuto[Annotated[int, Field(strict=True, ge=8, le=131072)]] = Field("auto", description="context in tokens")
    is_tied: OrAuto[bool] = Field("auto", description="share input and output embeddings")
    has_qk_norm: OrAuto[bool] = Field("auto", description="normalise queries and keys (exports as Qwen3, without as Llama)")

    @model_validator(mode="after")
    def _shapes_are_legal(self) -> Self:
        if self.num_heads != "auto" and self.d_model != "auto" and self.d_model % (2 * self.num_heads):
            raise ValueError(f"heads do not divide the width into even parts: {_legal_heads(self.d_model, self.num_heads)}")
        if self.num_heads != "auto" and self.num_kv_heads != "auto" and self.num_heads % self.num_kv_heads:
            fits = min((n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0), key=lambda n: abs(n - self.num_kv_heads))  # type: ignore[operator]
            raise ValueError(f"key/value heads do not divide the heads: the nearest legal num_kv_heads for {self.num_heads} heads is {fits}")
        if self.num_kv_heads != "auto" and self.num_heads == "auto" and self.d_model != "auto" and self.d_model % (2 * self.num_kv_heads):
            raise ValueError(f"key/value heads do not divide the width into even parts: {_legal_heads(self.d_model, self.num_kv_heads)}")
        return self


def _legal_heads(d_model: int, wanted: int) -> str:
    legal = [n for n in range(1, d_model // 2 + 1) if d_model % (2 * n) == 0]
    if not legal:
        return f"d_model must be even, the nearest is {d_model + 1}"
    return f"the nearest legal number of heads for d_model {d_model} is {min(legal, key=lambda n: abs(n - wanted))}"


class TrainParams(Strict):
    """How to train."""

    optimizer: OrAuto[Annotated[str, _one_of("optimizer")]] = Field("auto", description="muon (matrices, AdamW for the rest) or adamw")
    tokens_per_step: OrAuto[Count] = Field("auto", description="tokens in one optimizer step; a multiple of seq_len")
    micro_batch: OrAuto[Count] = Field("auto", description="sequences in one forward pass; divides the step")
    learning_rate: OrAuto[Rate] = Field("auto", description="peak rate of the matrices; the others follow in proportion")
    weight_decay: OrAuto[Annotated[float, Field(ge=0, le=10)]] = Field("auto", description="decoupled decay per step, times the learning rate")
    warmup_share: OrAuto[Share] = Field("auto", description="share of the schedule with a rising learning rate")
    cooldown_share: OrAuto[Share] = Field("auto", description="share of the schedule with a falling learning rate")
    clip_norm: OrAuto[Annotated[float, Field(gt=0)]] = Field("auto", description="global gradient norm above which gradients are scaled down")
    dtype: OrAuto[Literal["float32", "bfloat16", "float16"]] = Field("auto", description="type of the matrix products; auto measures")
    compile: OrAuto[bool] = Field("auto", description="torch.compile; auto weighs its gain against its cost")
    num_steps: OrAuto[Count] = Field("auto", description="train exactly so many steps and ignore the clock; auto follows the budget")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="initial weights")


class EvaluateParams(Strict):
    """How the result is shown."""

    prompts: list[str] = Field(default=["def ", "The ", "import "], description="beginnings for the samples")
    sample_tokens: Annotated[int, Field(strict=True, ge=1, le=10000)] = Field(80, description="tokens in each sample")
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(0.8, description="0 is greedy")
    top_k: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="sample from the k best; 0 is all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="sample from the smallest set with this probability")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="of the samples")


class ExportParams(Strict):
    """What leaves the house."""

    formats: list[Annotated[str, _one_of("export")]] = Field(default=["hf"], min_length=1, description="hf: Hugging Face folder")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")] = Field("pufferfish", description="the model's name in its card")


class Params(Strict):
    """The whole file. Sections may be left out."""

    budget: BudgetParams = BudgetParams()
    hardware_probe: HardwareProbeParams = HardwareProbeParams()
    plan: PlanParams = PlanParams()
    data: DataParams = DataParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    export: ExportParams = ExportParams()

    @classmethod
    def load(cls, path: Path) -> Params:
        """Raises UserErrors with every mistake in the file, each with its line."""
        return validate(cls, Document(path))
