"""What earlier plans found out about this machine and this text: surveys of vocabularies and paces of configurations, kept under all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

from pufferfish.base import memo
from pufferfish.data.survey import VocabularySurvey, bz2_bits_per_byte, survey
from pufferfish.plan.prices import StepTime
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import DataParams
from pufferfish.schema.plan import ModelPlan, TrainPlan
from pufferfish.train.beside import MeasureSteps, steps_question

SAMPLE_BYTES = 1_000_000
OF_TRAINING = (  # what of a training plan changes the pace
    *("device", "num_threads", "dtype", "attention", "is_compiled", "is_checkpointed"),
    *("optimizer", "micro_batch", "tokens_per_step"),
)
Tell = Callable[[str], None]


def known_survey(data: DataParams, corpus: Corpus, vocab_sizes: list[int], here: Hardware, *, tell: Tell) -> tuple[list[VocabularySurvey], float]:
    """What vocabularies would cost on this text, and bits per byte that bzip2 makes of it, found out once on this machine, `here`.

    Raises UserError as `survey` does.
    """
    wish = data.model_dump(mode="json", include={"source", "path", "seed"})
    question = {"machine": here.identity, "corpus": corpus.content, **wish, "vocab_sizes": vocab_sizes, "sample_bytes": SAMPLE_BYTES}
    answer = memo.recall("survey", question, _read_survey, tell=tell)
    if answer is None:
        answer = survey(data, corpus, vocab_sizes, SAMPLE_BYTES), bz2_bits_per_byte(data, SAMPLE_BYTES)
        memo.keep("survey", question, {"vocabularies": [astuple(each) for each in answer[0]], "bz2_bpb": answer[1]}, tell=tell)
    return answer


def _read_survey(answer: Any) -> tuple[list[VocabularySurvey], float]:
    return [VocabularySurvey(int(size), *map(float, costs)) for size, *costs in answer["vocabularies"]], float(answer["bz2_bpb"])


class KnownSteps:
    """Real steps on this machine, each configuration measured once."""

    def __init__(self, hardware: Hardware, measure: MeasureSteps, *, tell: Tell) -> None:
        self._measure, self._tell = measure, tell
        self._question = steps_question(hardware)
        self._steps = memo.recall("steps", self._question, _read_steps, tell=tell) or {}

    def is_known(self, model: ModelPlan, train: TrainPlan) -> bool:
        """Whether `measure` has the answer already."""
        return _key(model, train) in self._steps

    def measure(self, model: ModelPlan, train: TrainPlan) -> StepTime:
        """The kept time of a step, or a measured one, which is kept. Memory that ran out is tried again: others may have used it."""
        key = _key(model, train)
        if key in self._steps:
            return self._steps[key]
        step = self._measure(model, train)
        if step.fits:
            self._steps[key] = replace(step, is_kept=True)
            memo.keep("steps", self._question, [{"of": key, "step": astuple(each)[:3]} for key, each in self._steps.items()], tell=self._tell)
        return step


def _read_steps(answer: Any) -> dict[tuple[Any, ...], StepTime]:
    steps = {}
    for each in answer:
        step_s, peak_memory_bytes, first_step_s = each["step"]
        steps[tuple(each["of"])] = StepTime(float(step_s), int(peak_memory_bytes), float(first_step_s), is_kept=True)
    return steps


def _key(model: ModelPlan, train: TrainPlan) -> tuple[Any, ...]:
    return *model.model_dump().values(), *(getattr(train, name) for name in OF_TRAINING), train.clip_norm > 0
