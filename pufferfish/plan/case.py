"""What a plan is made for, how its budget divides, and what a strategy answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pufferfish.base.errors import UserError
from pufferfish.plan import budget, recipe
from pufferfish.plan.candidate import COMPILE_S, Candidate
from pufferfish.plan.configure import Situation
from pufferfish.plan.prices import Measure, OpenPilots, Pilot, PriceOf, Vocabulary
from pufferfish.plan.scaling import Text
from pufferfish.plan.speed import Machine
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import BudgetParams, Params, TrainParams
from pufferfish.schema.plan import BudgetPlan, DataPlan, ModelPlan, TrainPlan

VALIDATION_SHARE, MAX_VALIDATION_BYTES = 0.05, 1_000_000
TOKENIZER_BYTES = 3_000_000  # a guess: after 36 s one from 3 MB was no better than one from 1 MB (docs/LOG.md), more was not tried
TOKENIZER_SHARE = 0.01  # of the budget, for training the tokenizer
ENCODE_UNIT = 1_000_000  # bytes
ENCODING_SHARE = 0.08  # of the budget, at most, for encoding text and reading more for it: what is not encoded by then is left out, and the rest read again
PREPARE_START_S = 0.5
WRITE_S = 0.2  # the end of planning, after the last look at the time
COUNTED_STEPS_S = 60.0  # what a training by steps may take at least, so that a small budget does not refuse it
ROUGH_TOKENS_PER_S = 20_000  # until a candidate is chosen, and less where the fastest matrix products leave less to a small model:
ROUGH_FLOPS_PER_TOKEN, ROUGH_SHARE = 2.5e6, 0.35
ROUGH_TOKENS_PER_PARAM = 20.0  # with which the tokens grow with the root of what is computed, as far as the pace of a small model allows


@dataclass(frozen=True)
class Expected:
    """What the budget divides by, of a training that is not chosen yet, or is."""

    tokens_per_s: float  # of its passes
    num_params: int
    train_bytes: float  # of the text, to encode


@dataclass(frozen=True)
class Case:
    """Wishes, machine and text."""

    params: Params
    hardware: Hardware
    corpus: Corpus
    vocabularies: Sequence[Vocabulary]
    all_text: Text  # that there is to learn from
    price_of: PriceOf
    pilots: Sequence[Sequence[Pilot]] = ()  # of earlier plans for this text, those of one plan together
    reserve_factor: float = budget.RESERVE_MARGIN  # see `budget.reserve_factor`
    probed_s: float = 0.0  # that the probe took in this pipeline: to read much text takes long
    held_back_bytes: float = 0.0  # that are measured on, as the survey found them
    reading_s: Callable[[float], float] = lambda train_bytes: 0.0  # for preparing so much of the text, without encoding

    @cached_property
    def machine(self) -> Machine:
        """The hardware with its speeds looked up."""
        return Machine(self.hardware)

    @cached_property
    def total_s(self) -> float:
        """The budget."""
        return self.params.budget.time_s

    @cached_property
    def text(self) -> Text:
        """What can be learned from: all of it, or, where the clock rules, a power of two that can be read and encoded within its share of the budget."""
        if not self.is_timed:
            return self.all_text
        slowest, encodable = max(self.vocabularies, key=lambda each: each.encode_s_per_mb), float(ENCODE_UNIT)
        while encodable < self.all_text.unique_bytes and self.encoding_s(slowest, 2 * encodable) <= ENCODING_SHARE * self.total_s:
            encodable *= 2
        return self.all_text if encodable >= self.all_text.unique_bytes else replace(self.all_text, unique_bytes=encodable)

    def encoding_s(self, vocabulary: Vocabulary, train_bytes: float) -> float:
        """Time for encoding so much text, and for reading more than is read anyway."""
        return train_bytes / 1e6 * vocabulary.encode_s_per_mb + self.reading_s(train_bytes) - self.reading_s(0.0)

    @property
    def is_timed(self) -> bool:
        """Whether training follows the clock, and not a number of steps."""
        return self.params.train.num_steps == "auto"

    @property
    def setup_s(self) -> float:
        """Of the training phase, what passes before the first step."""
        return budget.training_setup_s(self.hardware)

    @property
    def planning_limit_s(self) -> float:
        """What planning may cost."""
        return budget.planning_limit_s(self.total_s)

    def with_total(self, total_s: float) -> Case:
        """The same with another budget."""
        time = f"{total_s:.3f}".rstrip("0").rstrip(".") + "s"
        return replace(self, params=self.params.model_copy(update={"budget": BudgetParams(time=time)}))

    def divided(self, vocabulary: Vocabulary, *, plan_s: float, expected: Expected | None = None) -> BudgetPlan:
        """The budget by phase; training gets what is left. Until something is expected, it is a small model."""
        expected = expected or self._rough(vocabulary)
        usual_bytes = min(self.corpus.validation_bytes or VALIDATION_SHARE * self.corpus.num_bytes, MAX_VALIDATION_BYTES)
        learning_s = self.tokenizer_bytes(vocabulary) / 1e6 * vocabulary.train_tokenizer_s
        encoding_s = self.reading_s(0.0) + self.encoding_s(vocabulary, min(self.all_text.unique_bytes, expected.train_bytes))
        return budget.divide(
            self.total_s,
            self.hardware,
            plan_s=plan_s,
            prepare_s=PREPARE_START_S + learning_s + encoding_s,
            validation_tokens=max(usual_bytes, self.held_back_bytes) / vocabulary.bytes_per_token,
            trained_tokens_per_s=expected.tokens_per_s,
            num_params=expected.num_params,
            factor=self.reserve_factor,
            probed_s=self.probed_s,
        )

    def _rough(self, vocabulary: Vocabulary) -> Expected:
        flops_per_s = ROUGH_SHARE * max(gemm.flops_per_s for speed in self.hardware.measured.dtypes for gemm in speed.gemms)
        tokens_per_s = min(ROUGH_TOKENS_PER_S, flops_per_s / ROUGH_FLOPS_PER_TOKEN)
        tokens = math.sqrt(ROUGH_TOKENS_PER_PARAM / 6 * flops_per_s * self.total_s)
        if self.hardware.fingerprint.device == "cpu":
            tokens = min(tokens, tokens_per_s * self.total_s)
        return Expected(tokens_per_s, 0, min(self.text.unique_bytes, tokens * vocabulary.bytes_per_token))

    def tokenizer_bytes(self, vocabulary: Vocabulary) -> float:
        """Sample for the tokenizer: a fixed size, less where that would cost too much of the budget or there is less text, but enough for the vocabulary."""
        affordable = TOKENIZER_SHARE * self.total_s / max(1e-6, vocabulary.train_tokenizer_s) * 1e6
        units = max(1, int(affordable // ENCODE_UNIT))
        return max(vocabulary.filling_bytes, min(self.text.unique_bytes, TOKENIZER_BYTES, units * ENCODE_UNIT))

    def loop_s(self, vocabulary: Vocabulary, *, plan_s: float, expected: Expected | None = None) -> float:
        """Time for steps, as far as it is known before a candidate is chosen."""
        left_s = self.divided(vocabulary, plan_s=plan_s, expected=expected).phases.train_s - self.setup_s
        return left_s if self.is_timed else max(left_s, COUNTED_STEPS_S)

    def situation(self, *, plan_s: float, train: TrainParams | None = None, expected: Expected | None = None) -> Situation:
        """What every candidate shares; `train` are other wishes than the user's."""
        loops_s = {each.vocab_size: self.loop_s(each, plan_s=plan_s, expected=expected) for each in self.vocabularies}
        return Situation(self.machine, self.params.data, train or self.params.train, self.price_of, self.text, lambda each: loops_s[each.vocab_size])

    def affordable(self, vocabulary: Vocabulary, *, plan_s: Callable[[float], float], expected: Expected | None = None, extra_s: float = 0.0) -> Case:
        """The same, if enough is left for training, else without what earlier pipelines took: they may have met an accident, and where nothing is planned
        nothing is learned anew. `plan_s` is what planning takes of any budget, `extra_s` joins the set-up.

        Raises UserError if too little is left for training by the clock.
        """

        def check(case: Case) -> Case:
            if case.is_timed:
                budget.check(
                    lambda total_s: case.with_total(total_s).divided(vocabulary, plan_s=plan_s(total_s), expected=expected),
                    total_s=case.total_s,
                    written=case.params.budget.time,
                    setup_s=case.setup_s + extra_s,
                )
            return case

        try:
            return check(self)
        except UserError:
            if self.reserve_factor <= budget.RESERVE_MARGIN:
                raise
            return check(replace(self, reserve_factor=budget.RESERVE_MARGIN))

    def data_plan(self, vocabulary: Vocabulary, *, train_bytes: int) -> DataPlan:
        """What is prepared of the text."""
        tokenizer_bytes = int(self.tokenizer_bytes(vocabulary))
        return data_plan(self.corpus, vocab_size=vocabulary.vocab_size, tokenizer_bytes=tokenizer_bytes, train_bytes=train_bytes, seed=self.params.data.seed)

    def train_plan(self, model: ModelPlan, train: TrainPlan, *, num_steps: int, train_s: float, epochs: float, per_byte: float) -> TrainPlan:
        """A configuration with the numbers that depend on how many tokens it will see."""
        return recipe.train_plan(
            self.params.train,
            self.params.data,
            self.hardware,
            model,
            dtype=train.dtype,
            tokens_per_step=train.tokens_per_step,
            micro_batch=train.micro_batch,
            num_steps=max(1, num_steps),
            train_s=train_s,
            epochs=epochs,
            per_byte=per_byte,
            teacher_share=train.teacher_share,
            is_compiled=train.is_compiled,
            is_checkpointed=train.is_checkpointed,
        )

    @property
    def pinned_compile_s(self) -> float:
        """What a compilation takes that is pinned."""
        return COMPILE_S[self.hardware.fingerprint.device] if self.params.train.compile is True else 0.0


def data_plan(corpus: Corpus, *, vocab_size: int, tokenizer_bytes: int, train_bytes: int, seed: int) -> DataPlan:
    """So much of a text, split as all are."""
    return DataPlan(
        source=corpus.source,
        path=corpus.path,
        corpus=corpus.content,
        validation_path=corpus.validation_path,
        validation_content=corpus.validation_content,
        validation_share=VALIDATION_SHARE,
        max_validation_bytes=MAX_VALIDATION_BYTES,
        vocab_size=vocab_size,
        tokenizer_bytes=tokenizer_bytes,
        train_bytes=train_bytes,
        seed=seed,
    )


def never_known(model: ModelPlan, train: TrainPlan) -> bool:
    """Nothing was measured before."""
    return False


@dataclass(frozen=True)
class Measuring:
    """Real steps on the machine that is planned for, and the time that planning has taken so far."""

    measure: Measure
    spent_s: Callable[[], float]
    is_known: Callable[[ModelPlan, TrainPlan], bool] = never_known  # without measuring
    again: Measure | None = None  # what `measure` found and what is found now; None: nothing is measured twice
    open_pilots: OpenPilots | None = None  # None: no short trainings, because none are wished for, or these were run before


@dataclass(frozen=True)
class Selection:
    """What a strategy chose, and from what."""

    best: Candidate
    candidates: list[Candidate]  # all, the best among them, with what was learned about their pace
    measured: list[Candidate]  # of these
    text: Text  # that will be learned from
    train_bytes: int  # of it, to encode
    pilots: Sequence[Sequence[Pilot]] = ()  # that the forecasts stand on

    @property
    def prepared_bytes(self) -> float:
        """Of the text, that there will be to read."""
        return min(self.text.unique_bytes, self.train_bytes)

    @property
    def expected(self) -> Expected:
        """What the budget divides by, now that something is chosen."""
        return Expected(self.best.passed_tokens_per_s, self.best.price.num_params, self.train_bytes)

    def with_choice(self, best: Candidate, *, spare_s: float) -> Selection:
        """The same with another choice, and the text that it has time to read: its pace may be quicker than what the text was measured out for. `spare_s` is
        what planning did not take of its time: what it took must not decide, or the next plan would prepare the text anew."""
        tokens = replace(best, loop_s=best.loop_s - spare_s).tokens
        read_bytes, train_bytes = min(tokens * best.vocabulary.bytes_per_token, self.text.unique_bytes), self.train_bytes
        while train_bytes < read_bytes:
            train_bytes *= 2
        return replace(self, best=best, train_bytes=train_bytes)

    @property
    def epochs(self) -> float:
        """How often the best one reads what is prepared."""
        return self.best.tokens * self.best.vocabulary.bytes_per_token / self.prepared_bytes

    def with_more_time(self, more_s: float) -> Selection:
        """The same where there is more time for steps, or less."""
        moved = {id(each): replace(each, loop_s=each.loop_s + more_s) for each in self.candidates}
        return replace(self, best=moved[id(self.best)], candidates=list(moved.values()), measured=[moved[id(each)] for each in self.measured])
