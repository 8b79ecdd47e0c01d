"""params.yaml: what the user wishes. Everything may be `auto`; what is pinned is honoured or refused, never replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from pufferfish.base import units
from pufferfish.base.errors import UserError, did_you_mean
from pufferfish.base.registry import MENU
from pufferfish.schema.artifact import Strict
from pufferfish.schema.complaints import validate
from pufferfish.schema.document import Document

SHORTEST_BUDGET_S, LONGEST_BUDGET_S = 1.0, 365 * 86400.0
STRATEGIES = ("measured", "table")  # of planning
ABSENT = {
    "gguf": "GGUF is not written here, and has no place for the tables of models that are not portable"
}  # what people may look for on the menu, and why it is not there

T = TypeVar("T")
Auto = Literal["auto"]
OrAuto = Annotated[
    Annotated[T, Tag("pinned")] | Annotated[Auto, Tag("auto")],
    Discriminator(lambda value: "auto" if value == "auto" else "pinned"),
]


def _is_a_size(value: Any) -> Any:
    example = "write a number and a unit, for example 4GB or 512MiB"
    try:
        num_bytes = units.parse_bytes(value) if isinstance(value, str) else -1
    except ValueError:
        num_bytes = -1
    if num_bytes < 0:
        raise ValueError(f"not a size: {example}")
    if num_bytes == 0:
        raise ValueError(f"no memory at all: {example}")
    return value


def _is_a_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise ValueError("not a name for a model: use letters, digits, dots, dashes and underscores, 96 at most, a letter or digit first")
    return name


def _leads_somewhere(path: str) -> str:
    if not path:
        raise ValueError("an empty path leads nowhere: write auto to hold documents back, or a path")
    return path


def _is_a_strategy(name: str) -> str:
    if name not in STRATEGIES:
        raise ValueError(f"there is no such strategy: {did_you_mean(name, STRATEGIES)}")
    return name


def _one_of(kind: str) -> Any:
    def check(name: str) -> str:
        if name not in MENU[kind]:
            raise ValueError(f"{ABSENT.get(name, f'there is no such {kind}')}: {did_you_mean(name, MENU[kind])}")
        return name

    return AfterValidator(check)


Count = Annotated[int, Field(strict=True, ge=1, le=10**12)]
Width = Annotated[int, Field(strict=True, ge=1, le=10**6)]  # more than any model has, and few enough to look for divisors among them
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Flag = Annotated[bool, Field(strict=True)]
Rate = Annotated[float, Field(strict=True, gt=0, le=10)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
TeacherShare = Annotated[float, Field(strict=True, ge=0, le=0.9)]  # more leaves the text nothing to say: a model would teach itself
Size = Annotated[str, BeforeValidator(_is_a_size)]


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
        if time_s < SHORTEST_BUDGET_S:
            raise ValueError("shorter than a second: give at least 1s")
        if time_s > LONGEST_BUDGET_S:
            raise ValueError("longer than a year: give at most 365d")
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


def _is_not_forced(value: Any) -> Any:
    if value is not False:
        what = "short trainings cannot be forced" if value is True else "neither auto nor false"
        raise ValueError(f"{what}: write false for none")
    return value


class PlanParams(Strict):
    """How the plan is made."""

    strategy: Annotated[str, AfterValidator(_is_a_strategy)] = Field(
        "measured", description="measured: price a grid, measure the best few, choose; table: the classic time table, to compare with"
    )
    pilots: OrAuto[Annotated[Flag, BeforeValidator(_is_not_forced)]] = Field(
        "auto", description="short trainings on the text, which correct the forecasts; auto: where planning has the time; false: none"
    )


class DataParams(Strict):
    """What to learn from."""

    source: Annotated[str, _one_of("source")] = Field("stdlib", description="stdlib (embedded), or text (`path`)")
    path: str = Field("", description="text: a file with one document per line, or a folder with one document per file (per 16 kB of files over 1 MB)")
    validation: Annotated[str, AfterValidator(_leads_somewhere)] = Field(
        "auto", description="your own validation text, like `path`; auto takes `validation` beside `train`, or holds documents back"
    )
    vocab_size: OrAuto[Annotated[int, Field(strict=True, ge=260, le=65536)]] = Field("auto", description="size of the byte-level BPE vocabulary")
    seed: Seed = Field(0, description="which documents are held back, and the order of training")

    @model_validator(mode="after")
    def _path_goes_with_text(self) -> Self:
        if (self.source == "text") != bool(self.path):
            raise ValueError("path and source do not fit: give `path` with `source: text`, and only then")
        return self


class ModelParams(Strict):
    """The shape of the model."""

    num_layers: OrAuto[Count] = Field("auto", description="decoder layers")
    d_model: OrAuto[Width] = Field("auto", description="width of the residual stream")
    num_heads: OrAuto[Width] = Field("auto", description="query heads")
    num_kv_heads: OrAuto[Width] = Field("auto", description="key/value heads; divides num_heads")
    head_dim: OrAuto[Width] = Field("auto", description="width of a head, even; auto: d_model / num_heads where num_heads is pinned")
    d_ff: OrAuto[Count] = Field("auto", description="width of the SwiGLU feed-forward layer")
    seq_len: OrAuto[Annotated[int, Field(strict=True, ge=8, le=131072)]] = Field("auto", description="context in tokens")
    is_tied: OrAuto[Flag] = Field("auto", description="share input and output embeddings")
    has_qk_norm: OrAuto[Flag] = Field("auto", description="normalise queries and keys (exports as Qwen3, without as Llama)")
    portable: Flag = Field(True, description="a stock architecture, which others load without code of ours")
    lookup: OrAuto[Literal["none", "value", "bigram"]] = Field("auto", description="not portable: a table of values for tokens, or of embeddings for pairs")

    @property
    def pins(self) -> dict[str, Any]:
        """What of the model is not left to the plan."""
        return {name: value for name, value in self.model_dump(exclude={"portable"}).items() if value != "auto"}

    @model_validator(mode="after")
    def _a_lookup_is_not_portable(self) -> Self:
        if self.portable and self.lookup in ("value", "bigram"):
            raise ValueError("no stock architecture looks anything up: set `portable: false`, or `lookup: auto`")
        return self

    @model_validator(mode="after")
    def _shapes_are_legal(self) -> Self:
        if self.d_model != "auto" and self.d_model % 2:
            near = f"the nearest legal d_model are {self.d_model - 1} and {self.d_model + 1}"
            raise ValueError(f"an odd width does not divide into pairs for the position embedding: {near}")
        if self.head_dim != "auto" and self.head_dim % 2:
            near = f"the nearest legal head_dim are {self.head_dim - 1} and {self.head_dim + 1}" if self.head_dim > 1 else "give at least 2"
            raise ValueError(f"an odd head does not divide into pairs for the position embedding: {near}")
        if self.head_dim == "auto" and self.num_heads != "auto" and self.d_model != "auto" and self.d_model % (2 * self.num_heads):
            raise ValueError(f"heads do not divide the width into even parts: {_legal_heads(self.d_model, self.num_heads)}; or give `head_dim`")
        if self.num_heads != "auto" and self.num_kv_heads != "auto" and self.num_heads % self.num_kv_heads:
            fits = _nearest_number((n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0), self.num_kv_heads)
            raise ValueError(f"key/value heads do not divide the heads: the nearest legal num_kv_heads for {self.num_heads} heads is {fits}")
        return self


def _legal_heads(d_model: int, wanted: int) -> str:
    legal = [n for n in range(1, d_model // 2 + 1) if d_model % (2 * n) == 0]
    return f"the nearest legal number of heads for d_model {d_model} is {_nearest_number(legal, wanted)}"


def _nearest_number(numbers: Iterable[int], wanted: int) -> int:
    return min(numbers, key=lambda number: abs(number - wanted))


class TrainParams(Strict):
    """How to train."""

    optimizer: OrAuto[Annotated[str, _one_of("optimizer")]] = Field("auto", description="muon (matrices, AdamW for the rest) or adamw")
    tokens_per_step: OrAuto[Count] = Field("auto", description="tokens in one optimizer step; a multiple of seq_len")
    micro_batch: OrAuto[Count] = Field("auto", description="sequences in one forward pass; divides the step")
    learning_rate: OrAuto[Rate] = Field("auto", description="peak rate of the matrices; the others follow in proportion")
    weight_decay: OrAuto[Annotated[float, Field(strict=True, ge=0, le=10)]] = Field("auto", description="decoupled decay per step, times the learning rate")
    warmup_share: OrAuto[Share] = Field("auto", description="share of the schedule with a rising learning rate")
    cooldown_share: OrAuto[Share] = Field("auto", description="share of the schedule with a falling learning rate")
    input_noise: OrAuto[Share] = Field("auto", description="share of the inputs that are replaced by random tokens")
    teacher_share: OrAuto[TeacherShare] = Field("auto", description="share of the targets that an average of the last weights gives")
    clip_norm: OrAuto[Annotated[float, Field(strict=True, gt=0)]] = Field("auto", description="global gradient norm above which gradients are scaled down")
    dtype: OrAuto[Literal["float32", "bfloat16", "float16"]] = Field("auto", description="type of the matrix products; auto measures")
    attention: OrAuto[Literal["explicit", "sdpa", "flash_attn"]] = Field("auto", description="kernel of attention; flash_attn is a package of its own")
    compile: OrAuto[Flag] = Field("auto", description="torch.compile; auto weighs its gain against its cost")
    num_steps: OrAuto[Count] = Field("auto", description="train exactly so many steps and ignore the clock; auto follows the budget")
    seed: Seed = Field(0, description="initial weights")

    @property
    def pins(self) -> dict[str, Any]:
        """What of the quality is not left to the plan: seeds make a training another one of its kind, and the rest says only how it is executed."""
        executed = {"micro_batch", "dtype", "attention", "compile", "seed"}
        return {name: value for name, value in self.model_dump(exclude=executed).items() if value != "auto"}

    @model_validator(mode="after")
    def _shares_fit_into_the_schedule(self) -> Self:
        if self.warmup_share != "auto" and self.cooldown_share != "auto" and self.warmup_share + self.cooldown_share > 1:
            raise ValueError("warm-up and cooldown are longer than the schedule: together they may be 1 at most")
        return self


class EvaluateParams(Strict):
    """How the result is shown."""

    prompts: OrAuto[list[str]] = Field("auto", description="beginnings for the samples, a list; auto: those of documents that were held back")
    sample_tokens: Annotated[int, Field(strict=True, ge=1, le=10000)] = Field(80, description="tokens in each sample")
    temperature: Annotated[float, Field(strict=True, ge=0, le=10)] = Field(0.8, description="0 is greedy")
    top_k: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="sample from the k best; 0 is all")
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(0.95, description="sample from the smallest set with this probability")
    seed: Seed = Field(0, description="of the samples")


class ExportParams(Strict):
    """What leaves the house."""

    formats: list[Annotated[str, _one_of("export")]] = Field(default=["hf"], min_length=1, description="hf: Hugging Face folder")
    name: Annotated[str, AfterValidator(_is_a_name)] = Field("pufferfish", description="the model's name in its card")


class Params(Strict):
    """The whole file. In code sections may be left out; in the file DVC watches them, so they are there, if only as `{}`."""

    budget: BudgetParams = BudgetParams()
    hardware_probe: HardwareProbeParams = HardwareProbeParams()
    plan: PlanParams = PlanParams()
    data: DataParams = DataParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    export: ExportParams = ExportParams()

    @property
    def is_free(self) -> bool:
        """Whether the plan may choose, by its forecasts, everything that decides the quality."""
        return self.plan.strategy == "measured" and self.data.vocab_size == "auto" and not self.model.pins and not self.train.pins

    @classmethod
    def load(cls, path: Path) -> Params:
        """Raises UserError with every mistake in the file, each with its line."""
        document = Document(path)
        params = validate(cls, document)
        missing = [name for name in cls.model_fields if name not in document.data]
        if missing:
            raise UserError("sections are missing", saw=f"no {', no '.join(missing)}      ({path})", fix=f"add each as a line of its own: `{missing[0]}: {{}}`")
        return params
