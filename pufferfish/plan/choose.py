"""Price every configuration, measure real steps of the most promising until the best one is measured, take the smaller of near-equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pufferfish.base.errors import UserError
from pufferfish.plan import memory, recipe, scaling, speed
from pufferfish.plan.prices import Measure, Price, PriceOf, StepTime, Vocabulary
from pufferfish.plan.scaling import Text
from pufferfish.plan.speed import Machine
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import DataParams, TrainParams
from pufferfish.schema.plan import ModelPlan, TrainPlan

FEWEST_STEPS = 100  # of the optimizer: with fewer, nothing is learned
BATCH_CHOICES = (0.5, 1.0, 2.0)  # times the best batch
NEAR = 0.003  # relative difference of forecasts that counts as equal
COMPILE_S = {"cpu": 25.0, "cuda": 60.0}  # a cold compilation, where none was measured
KERNEL = 0.7  # e-folds of size over which a measured correction is trusted
MEASURED_STEPS_S = 0.4  # time for the steps of one measurement
FEWEST_MEASURED = 5  # shapes, where there is time: the errors of predictions differ by shape


@dataclass(frozen=True)
class Candidate:
    """One configuration with its price, pace and forecast."""

    model: ModelPlan
    train: TrainPlan
    price: Price
    memory_bytes: int
    predicted_step_s: float
    loop_s: float  # time for steps, compilation taken off
    vocabulary: Vocabulary
    measured: StepTime | None = None
    correction: float = 1.0  # of the predicted pace, learned from measurements of others

    @property
    def step_s(self) -> float:
        """The best knowledge of its pace."""
        return self.measured.step_s if self.measured else self.predicted_step_s * self.correction

    @property
    def num_steps(self) -> int:
        """Optimizer steps that fit."""
        return self.train.num_steps if self.train.clock == "steps" else int(self.loop_s / self.step_s)

    @property
    def tokens(self) -> int:
        """Tokens that fit."""
        return self.num_steps * self.train.tokens_per_step

    def forecast(self, text: Text) -> float:
        """Validation bits per byte."""
        model = self.model
        return scaling.val_bpb(
            num_layers=model.num_layers,
            block_params=self.price.matmul_params - model.vocab_size * model.d_model,
            vocab_size=model.vocab_size,
            d_model=model.d_model,
            seq_len=model.seq_len,
            tokens=max(1, self.tokens),
            bytes_per_token=self.vocabulary.bytes_per_token,
            text=text,
            tokens_per_step=self.train.tokens_per_step,
        )


@dataclass(frozen=True)
class Situation:
    """What every candidate shares."""

    machine: Machine
    data: DataParams
    train: TrainParams
    price_of: PriceOf
    text: Text
    loop_s: Callable[[Vocabulary], float]  # time for steps with a vocabulary, before compilation

    @property
    def hardware(self) -> Hardware:
        """What was measured of it."""
        return self.machine.hardware


def enumerate_candidates(situation: Situation, models: Iterator[ModelPlan], vocabularies: Sequence[Vocabulary]) -> list[Candidate]:
    """Every model with the batches around its best one, that fits into memory and gets enough steps; best forecast first."""
    by_size = {vocabulary.vocab_size: vocabulary for vocabulary in vocabularies}
    candidates: list[Candidate] = []
    seq_lens: set[int] = set()
    for model in models:
        seq_lens.add(model.seq_len)
        vocabulary = by_size[model.vocab_size]
        price = situation.price_of(model, recipe.attention_for(situation.hardware.fingerprint.device, model.seq_len))
        for is_compiled in _compile_choices(situation):
            candidates += _with_batches(situation, model, price, vocabulary, is_compiled=is_compiled)
    if not candidates:
        raise _nothing_fits(situation, by_size, sorted(seq_lens))
    return sorted(candidates, key=lambda candidate: candidate.forecast(situation.text))


def _nothing_fits(situation: Situation, vocabularies: dict[int, Vocabulary], seq_lens: list[int]) -> UserError:
    """Which of the bounds left no configuration."""
    wish = situation.train
    loop_s = max(situation.loop_s(vocabulary) for vocabulary in vocabularies.values())
    context = seq_lens[0]
    if wish.tokens_per_step != "auto" and all(wish.tokens_per_step % seq_len for seq_len in seq_lens):
        nearest = max(1, round(wish.tokens_per_step / context)) * context
        saw = f"train.tokens_per_step: {wish.tokens_per_step}; a sequence has {context} tokens"
        fix = f"set `train.tokens_per_step: {nearest}`, or pin `model.seq_len` to a divisor"
        return UserError("tokens per step are not whole sequences", saw=saw, fix=fix)
    if wish.tokens_per_step != "auto" and wish.micro_batch != "auto" and (sequences := wish.tokens_per_step // context) % wish.micro_batch:
        fits = max(size for size in range(1, sequences + 1) if sequences % size == 0 and size <= wish.micro_batch)
        saw = f"train.micro_batch: {wish.micro_batch}; a step has {sequences} sequences"
        return UserError("micro-batches do not make up a step", saw=saw, fix=f"set `train.micro_batch: {fits}`")
    bound = f"{situation.hardware.usable_memory_bytes / 1e9:.1f} GB of memory, {loop_s:.0f} s for training"
    fix = f"give more `budget.time` (a training needs {FEWEST_STEPS} steps), or pin smaller values in `model` and `train`"
    return UserError("no model fits into the time and memory", saw=bound, fix=fix)


def _compile_choices(situation: Situation) -> list[bool]:
    wish, measured = situation.train.compile, situation.hardware.measured
    if wish is True and not measured.has_compiler:
        raise UserError(
            "torch.compile does not work here", saw="train.compile: true, and no C++ compiler", fix="install g++ or clang, or set `train.compile: auto`"
        )
    if wish != "auto":
        return [wish]
    return [False, True] if measured.has_compiler else [False]


def _with_batches(situation: Situation, model: ModelPlan, price: Price, vocabulary: Vocabulary, *, is_compiled: bool) -> Iterator[Candidate]:
    device = situation.hardware.fingerprint.device
    loop_s = situation.loop_s(vocabulary) - (COMPILE_S[device] if is_compiled else 0.0)
    if loop_s <= 0:
        return
    seen = set()
    tokens = loop_s * price_per_second(situation, model, price)
    for factor in (1.0,) if situation.train.tokens_per_step != "auto" else BATCH_CHOICES:
        tokens_per_step = _tokens_per_step(situation, model, factor * scaling.best_tokens_per_step(tokens))
        if tokens_per_step in seen or tokens_per_step % model.seq_len:
            continue
        seen.add(tokens_per_step)
        candidate = _candidate(situation, model, price, vocabulary, tokens_per_step=tokens_per_step, loop_s=loop_s, is_compiled=is_compiled)
        if candidate and (candidate.num_steps >= FEWEST_STEPS or candidate.train.clock == "steps"):
            yield candidate


def price_per_second(situation: Situation, model: ModelPlan, price: Price) -> float:
    """Rough tokens per second, to place the batch."""
    dtype = _dtype(situation)
    flops_per_s = situation.machine.gemm_flops_per_s(dtype, 2048, model.d_model, model.d_model * 4)
    return 0.5 * flops_per_s / price.flops_per_token


def _dtype(situation: Situation) -> str:
    speeds = situation.hardware.measured.dtypes
    wish = situation.train.dtype
    if wish == "auto":
        # float16 needs its loss scaled: only where it is far faster, as on GPUs that lack bfloat16
        worth = {speed.dtype: max(gemm.flops_per_s for gemm in speed.gemms) / (2 if speed.dtype == "float16" else 1) for speed in speeds}
        return max(worth, key=lambda dtype: worth[dtype])
    if wish not in {speed.dtype for speed in speeds}:
        known = ", ".join(speed.dtype for speed in speeds)
        raise UserError(f"{wish} does not run on this machine", saw=f"train.dtype: {wish}; measured are {known}", fix="set `train.dtype: auto`")
    return wish


def _tokens_per_step(situation: Situation, model: ModelPlan, wanted: float) -> int:
    """The pinned number, or the power of two times the context that is nearest to what is wanted."""
    pinned = situation.train.tokens_per_step
    return model.seq_len << max(0, round(math.log2(max(1.0, wanted / model.seq_len)))) if pinned == "auto" else pinned


def _candidate(
    situation: Situation, model: ModelPlan, price: Price, vocabulary: Vocabulary, *, tokens_per_step: int, loop_s: float, is_compiled: bool
) -> Candidate | None:
    """The configuration with the largest micro-batch that fits, activations recomputed only if nothing else does."""
    sequences = tokens_per_step // model.seq_len
    limit = memory.USABLE_SHARE * situation.hardware.usable_memory_bytes
    pinned = situation.train.micro_batch
    sizes = [size for size in range(sequences, 0, -1) if sequences % size == 0 and pinned in ("auto", size)]
    for is_checkpointed in (False, True):
        for size in sizes:
            train = recipe.train_plan(
                situation.train,
                situation.data,
                situation.hardware,
                model,
                dtype=_dtype(situation),
                tokens_per_step=tokens_per_step,
                micro_batch=size,
                num_steps=1,
                train_s=loop_s,
                best_tokens_per_step=tokens_per_step,
                is_compiled=is_compiled,
                is_checkpointed=is_checkpointed,
            )
            held = memory.memory_of(price, train, seq_len=model.seq_len, embedding_params=recipe.embedding_params(model)).total
            if held <= limit:
                step_s = speed.step_seconds(situation.machine, price, model, train)
                return Candidate(model, train, price, held, step_s, loop_s, vocabulary)
    return None


def measure_best(
    candidates: list[Candidate], measure: Measure, *, text: Text, is_affordable: Callable[[Candidate, int], bool]
) -> tuple[list[Candidate], list[Candidate]]:
    """Measure the candidate with the best forecast, correct the others by what was learned, and repeat until the best one is a measured one.

    At least `FEWEST_MEASURED` shapes are looked at. `is_affordable` tells whether there is time to measure a candidate after so many others; those for
    which there is not are passed over. Returns the candidates, corrected, and those measured.
    """
    measured: list[Candidate] = []
    while target := _next_to_measure(candidates, measured, text, is_affordable):
        result = measure(target.model, target.train)
        if not result.fits:
            candidates = [candidate for candidate in candidates if candidate is not target]
            if not candidates:
                raise UserError("no model fits into memory", saw=f"{target.memory_bytes / 1e9:.1f} GB were expected to fit", fix="set `hardware_probe.memory`")
            continue
        known = replace(target, measured=result)
        measured.append(known)
        candidates = [known if candidate is target else _corrected(candidate, measured) for candidate in candidates]
    return candidates, measured


def _next_to_measure(candidates: list[Candidate], measured: list[Candidate], text: Text, is_affordable: Callable[[Candidate, int], bool]) -> Candidate | None:
    """The best forecast that can be measured, if it is not yet; else the best of a shape that is not, until there are enough of them."""
    ranked = sorted(candidates, key=lambda candidate: candidate.forecast(text))
    best = next((candidate for candidate in ranked if candidate.measured or is_affordable(candidate, len(measured))), None)
    if best is None or not best.measured:
        return best
    if len(measured) >= FEWEST_MEASURED:
        return None
    shapes = {(other.model.num_layers, other.model.d_model) for other in measured}
    others = (candidate for candidate in ranked if (candidate.model.num_layers, candidate.model.d_model) not in shapes)
    return next((candidate for candidate in others if is_affordable(candidate, len(measured))), None)


def _corrected(candidate: Candidate, measured: list[Candidate]) -> Candidate:
    """Its predicted pace times the measured over predicted pace of others, the near ones counting most (a Gaussian kernel in the logarithms of the shape)."""
    if candidate.measured:
        return candidate
    weighted = [(math.exp(-((_distance(candidate, other) / KERNEL) ** 2)) + 1e-3, other) for other in measured]
    ratio = sum(weight * math.log(other.step_s / other.predicted_step_s) for weight, other in weighted) / sum(weight for weight, _ in weighted)
    return replace(candidate, correction=math.exp(ratio))


def _distance(one: Candidate, other: Candidate) -> float:
    first, second = ((c.model.num_layers, c.model.d_model, c.model.vocab_size**0.5, c.model.seq_len, c.train.tokens_per_step) for c in (one, other))
    return math.dist([math.log(x) for x in first], [math.log(x) for x in second]) + (3.0 if one.train.is_compiled != other.train.is_compiled else 0.0)


def choose(candidates: list[Candidate], *, text: Text) -> Candidate:
    """The smallest of those whose forecast is within `NEAR` of the best; measured ones go first."""
    pool = [candidate for candidate in candidates if candidate.measured] or candidates
    best = min(candidate.forecast(text) for candidate in pool)
    near = [candidate for candidate in pool if candidate.forecast(text) <= best * (1 + NEAR)]
    return min(near, key=lambda candidate: (candidate.price.num_params, candidate.forecast(text)))
