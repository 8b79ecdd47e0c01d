"""What earlier plans found out about this machine and this text: surveys of the text and paces of configurations, kept under all that they depend on."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

from pufferfish.base import memo
from pufferfish.base.errors import UserError
from pufferfish.base.memo import Tell
from pufferfish.data.copies import Copies
from pufferfish.data.hardness import Hardness
from pufferfish.data.survey import Survey, VocabularySurvey, survey
from pufferfish.plan.prices import StepTime
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import DataPlan, ModelPlan, TrainPlan
from pufferfish.train.beside import Steps

OF_TRAINING = (  # what of a training plan changes the pace
    *("device", "num_threads", "dtype", "attention", "is_compiled", "is_checkpointed"),
    *("optimizer", "micro_batch", "tokens_per_step", "teacher_share"),
)


def known_survey(plan: DataPlan, vocab_sizes: list[int], here: Hardware, *, tell: Tell) -> Survey:
    """What there is to know of the text that is planned with, found out once on this machine, `here`. Raises UserError as `survey` does."""
    question = {"machine": here.identity, "plan": plan.model_dump(mode="json"), "vocab_sizes": vocab_sizes}
    found = memo.recall("survey", question, _read_survey, tell=tell)
    if found is None:
        found = survey(plan, vocab_sizes)
        memo.keep("survey", question, _kept(found), tell=tell)
    return found


def _kept(found: Survey) -> dict[str, Any]:
    return {
        "vocabularies": [astuple(each) for each in found.vocabularies],
        "hardness": astuple(found.hardness),
        "copies": astuple(found.copies),
        "train_bytes": found.train_bytes,
        "held_back_bytes": found.held_back_bytes,
        "document_bytes": found.document_bytes,
        "read_s_per_mb": found.read_s_per_mb,
    }


def _read_survey(answer: Any) -> Survey:
    vocabularies = [VocabularySurvey(int(size), *map(float, costs)) for size, *costs in answer["vocabularies"]]
    hardness, copies = (map(float, answer[name]) for name in ("hardness", "copies"))
    sizes = int(answer["train_bytes"]), int(answer["held_back_bytes"])
    return Survey(vocabularies, Hardness(*hardness), Copies(*copies), *sizes, float(answer["document_bytes"]), float(answer["read_s_per_mb"]))


class KnownSteps:
    """Real steps on this machine. What an earlier plan measured is not measured again."""

    def __init__(self, hardware: Hardware, steps: Steps, *, tell: Tell) -> None:
        self._measurer, self._tell = steps, tell
        self._question = {"machine": hardware.identity}
        self._steps = memo.recall("steps", self._question, _read_steps, tell=tell) or {}

    def is_known(self, model: ModelPlan, train: TrainPlan) -> bool:
        """Whether `measure` has the answer already."""
        return _key(model, train) in self._steps

    def measure(self, model: ModelPlan, train: TrainPlan) -> StepTime:
        """The kept time of a step, or a measured one, which is kept. Memory that ran out is tried again: others may have used it. Raises UserError where
        torch.compile does not work here, which is told."""
        key = _key(model, train)
        if key in self._steps:
            return self._steps[key]
        try:
            step = self._measurer.measure(model, train)
        except UserError as error:
            self._tell(f"{error.what}: {error.saw}")
            raise
        return self._kept(key, step) if step.fits else step

    def measure_again(self, model: ModelPlan, train: TrainPlan) -> StepTime:
        """What is kept of a step and a new measurement of it, which are kept together; the new one alone where memory ran out."""
        key = _key(model, train)
        take = self._measurer.measure(model, train)
        return self._kept(key, self._steps[key].with_another(take)) if take.fits else take

    def _kept(self, key: tuple[Any, ...], step: StepTime) -> StepTime:
        self._steps[key] = replace(step, is_kept=True)
        memo.keep("steps", self._question, [_answer(key, each) for key, each in self._steps.items()], tell=self._tell)
        return replace(step, is_kept=False)


def _answer(key: tuple[Any, ...], step: StepTime) -> dict[str, Any]:
    return {"of": key, "step": [step.step_s, step.peak_memory_bytes, step.first_step_s], "takes_s": step.takes_s}


def _read_steps(answer: Any) -> dict[tuple[Any, ...], StepTime]:
    steps = {}
    for each in answer:
        step_s, peak_memory_bytes, first_step_s = each["step"]
        takes_s = tuple(map(float, each["takes_s"]))
        steps[tuple(each["of"])] = StepTime(float(step_s), int(peak_memory_bytes), float(first_step_s), is_kept=True, takes_s=takes_s)
    return steps


def _key(model: ModelPlan, train: TrainPlan) -> tuple[Any, ...]:
    return *model.model_dump().values(), *(getattr(train, name) for name in OF_TRAINING), train.clip_norm > 0
