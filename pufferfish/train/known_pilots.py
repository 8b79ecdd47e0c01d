"""Short trainings that earlier plans had on a text, kept under all that their outcome depends on: the machine is not of it."""

from __future__ import annotations

from typing import Any

from pufferfish.base import memo
from pufferfish.base.digest import digest
from pufferfish.base.memo import Tell
from pufferfish.plan.pilot import FEWEST
from pufferfish.plan.prices import OpenPilots, Pilot, RunPilot
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import Params
from pufferfish.schema.plan import DataPlan, ModelPlan

UNSEEN_OF_MODEL = {"portable", "lookup", "is_tied", "has_qk_norm"}  # by the loss law


class KnownPilots:
    """Short trainings on a text, on whatever machine: kept in rounds, one for each plan that had them."""

    def __init__(self, params: Params, hardware: Hardware, corpus: Corpus, *, tell: Tell) -> None:
        """A round belongs to wishes and machine, all rounds to the text and to those wishes that the loss law does not see."""
        unseen = {"train": {**params.train.pins, "tokens_per_step": 0, "num_steps": 0}, "model": params.model.model_dump(include=UNSEEN_OF_MODEL)}
        self._question = {"text": [corpus.content, corpus.validation_content, params.data.seed], **unseen}
        self._round = digest([hardware.identity, params.model_dump(mode="json", exclude={"evaluate", "export"})])
        self._tell = tell
        self._flown: list[Pilot] = []
        self._rounds: dict[str, list[Pilot]] = memo.recall("pilots", self._question, _read_rounds, tell=tell) or {}

    @property
    def rounds(self) -> list[list[Pilot]]:
        """All that were kept."""
        return list(self._rounds.values())

    @property
    def has_own(self) -> bool:
        """Whether a plan with these wishes had its round on this machine."""
        return self._round in self._rounds

    def keeping(self, open_pilots: OpenPilots) -> OpenPilots:
        """The same, keeping what comes of it, from two pilots on: one says nothing of shapes."""

        def opened(data: DataPlan, sample_bytes: int) -> RunPilot:
            run = open_pilots(data, sample_bytes)
            return lambda model, train, limit_s: self._keep(run(model, train, limit_s))

        return opened

    def _keep(self, pilot: Pilot | None) -> Pilot | None:
        self._flown += [pilot] if pilot else []
        if pilot and len(self._flown) >= FEWEST:
            self._rounds[self._round] = [*self._flown]
            rounds = {name: [{**vars(each), "model": each.model.model_dump()} for each in pilots] for name, pilots in self._rounds.items()}
            memo.keep("pilots", self._question, rounds, tell=self._tell)
        return pilot


def _read_rounds(answer: Any) -> dict[str, list[Pilot]]:
    return {name: [Pilot(**{**each, "model": ModelPlan.model_validate(each["model"])}) for each in pilots] for name, pilots in answer.items()}
