"""One configuration with its price, pace and forecast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from pufferfish.plan import memory, recipe, scaling, speed
from pufferfish.plan.memory import Memory
from pufferfish.plan.prices import Price, StepTime, Vocabulary
from pufferfish.plan.scaling import Learner, Text
from pufferfish.schema.plan import ModelPlan, TrainPlan

FEWEST_STEPS = 100  # of the optimizer: with fewer, nothing is learned
COMPILE_S = {"cpu": 35.0, "cuda": 60.0}  # a cold compilation, where none was measured: 36 s for 2 layers on 2 slow cores (docs/LOG.md); a guess for GPUs
COUNTED_SHARE = 0.8  # of the time, for counted steps: the evaluation that follows is priced by a pace that is not known before
OVER_TIME = 1.25  # counted steps that take longer than the budget may take so many times the quickest possible, to take them better
LEAST_UNUSED = 0.05  # of the time for steps: less is used all the same


@dataclass(frozen=True)
class Candidate:
    """One configuration with its price, pace and forecast."""

    model: ModelPlan
    train: TrainPlan
    price: Price
    predicted_step_s: float
    pass_share: float  # of a step, for what it computes for its tokens; the rest is launches and the optimizer
    loop_s: float  # time for steps, compilation taken off
    vocabulary: Vocabulary
    text: Text  # that it was planned for
    measured: StepTime | None = None
    correction: float = 1.0  # of the predicted pace, by what was measured of it and of others
    learned: float = 1.0  # of the law's bits per byte against those of other shapes, from short trainings

    @property
    def memory(self) -> Memory:
        """What it holds at its peak."""
        return held(self.model, self.price, self.train)

    @property
    def step_s(self) -> float:
        """The best knowledge of its pace."""
        return self.predicted_step_s * self.correction

    @property
    def passed_tokens_per_s(self) -> float:
        """Pace of the passes of training alone, without those of a teacher, which many tokens at a time come near to."""
        return speed.passes(self.train) * self.train.tokens_per_step / (self.pass_share * self.step_s)

    @property
    def is_taught(self) -> bool:
        """Whether an average of its last weights teaches it."""
        return self.train.teacher_share > 0

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps: those that fit, but no more than are good for it."""
        if self.train.clock == "steps":
            return self.train.num_steps
        steps_per_epoch = self.text.unique_bytes / (self.train.tokens_per_step * self.vocabulary.bytes_per_token)
        if self.fitting_steps <= steps_per_epoch:
            return self.fitting_steps
        learner = learner_of(self.model, self.price, bytes_per_token=self.vocabulary.bytes_per_token, is_taught=self.is_taught)
        epochs = scaling.worthwhile_epochs(learner, self.text, self.fitting_steps / steps_per_epoch)
        return min(self.fitting_steps, max(FEWEST_STEPS, round(epochs * steps_per_epoch)))

    def epochs(self, text: Text) -> float:
        """How often the text is read."""
        return self.tokens * self.vocabulary.bytes_per_token / text.unique_bytes

    @property
    def fitting_steps(self) -> int:
        """Optimizer steps that fit into the time; none where planning has used up more than there was."""
        return max(0, int(self.loop_s / self.step_s))

    @property
    def unused_s(self) -> float:
        """Time for steps that it is better without."""
        unused_s = (self.fitting_steps - self.num_steps) * self.step_s
        return unused_s if self.train.clock == "deadline" and unused_s > LEAST_UNUSED * self.loop_s else 0.0

    @property
    def tokens(self) -> int:
        """Tokens that it reads."""
        return self.num_steps * self.train.tokens_per_step

    @property
    def compile_s(self) -> float:
        """What its compilation takes: no more than it took when it was measured, since what was compiled is kept; or a guess."""
        if not self.train.is_compiled:
            return 0.0
        return self.measured.first_step_s if self.measured else COMPILE_S[self.train.device]

    @property
    def needed_s(self) -> float:
        """Time for its steps."""
        return self.num_steps * self.step_s

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and width."""
        return self.model.num_layers, self.model.d_model

    def with_measured(self, found: StepTime) -> Candidate:
        """The same with real steps. Time that its compilation did not take is time for steps, and the other way round."""
        known = replace(self, measured=found, correction=found.step_s / self.predicted_step_s)
        return replace(known, loop_s=self.loop_s + self.compile_s - known.compile_s)

    def forecast(self, text: Text) -> float:
        """Validation bits per byte."""
        known = self._forecasts
        if text not in known:
            tokens, tokens_per_step, bytes_per_token = max(1, self.tokens), self.train.tokens_per_step, self.vocabulary.bytes_per_token
            known[text] = self.learned * by_law(
                self.model, self.price, text, tokens=tokens, tokens_per_step=tokens_per_step, bytes_per_token=bytes_per_token, is_taught=self.is_taught
            )
        return known[text]

    @cached_property
    def _forecasts(self) -> dict[Text, float]:
        """What was asked for: a choice compares the same ones again and again."""
        return {}


def by_law(model: ModelPlan, price: Price, text: Text, *, tokens: int, tokens_per_step: int, bytes_per_token: float, is_taught: bool = False) -> float:
    """Validation bits per byte that the loss law expects of a model."""
    learner = learner_of(model, price, bytes_per_token=bytes_per_token, is_taught=is_taught)
    bpb = scaling.val_bpb(learner, text, num_layers=model.num_layers, seq_len=model.seq_len, tokens=tokens, tokens_per_step=tokens_per_step)
    return (1 - scaling.LOOKUP_GAIN[model.lookup]) * bpb


def learner_of(model: ModelPlan, price: Price, *, bytes_per_token: float, is_taught: bool) -> Learner:
    """The model as the law sees it."""
    block_params = price.matmul_params - model.vocab_size * model.d_model
    return Learner(block_params, price.num_params, model.d_model, model.vocab_size, bytes_per_token, is_taught=is_taught)


def held(model: ModelPlan, price: Price, train: TrainPlan) -> Memory:
    """What a training holds at its peak."""
    return memory.memory_of(price, train, seq_len=model.seq_len, embedding_params=recipe.embedding_params(model, price))


def has_enough_steps(candidate: Candidate) -> bool:
    """Whether it would learn anything in its time; counted steps are always enough."""
    return candidate.train.clock == "steps" or candidate.num_steps >= FEWEST_STEPS


def in_time(candidates: list[Candidate]) -> list[Candidate]:
    """Those whose steps fit into the time. Counted steps are taken all the same where none does: then those that are about as quick as possible."""
    share = {"deadline": 1.0, "steps": COUNTED_SHARE}
    fitting = [candidate for candidate in candidates if candidate.needed_s <= share[candidate.train.clock] * candidate.loop_s]
    if fitting or not candidates:
        return fitting
    quickest_s = min(candidate.compile_s + candidate.needed_s for candidate in candidates)
    return [candidate for candidate in candidates if candidate.compile_s + candidate.needed_s <= OVER_TIME * quickest_s]
