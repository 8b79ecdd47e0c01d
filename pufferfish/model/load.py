"""A trained model from its folder, after checking that it is the one that training wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.model.transformer import Decoder
from pufferfish.schema.plan import Plan, TrainedPlan
from pufferfish.schema.reports import Outcome

WEIGHTS = "model.safetensors"


def load_model(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Decoder, Plan]:
    """Raises UserError if a file is missing or the weights are not those that training wrote."""
    plan, outcome = TrainedPlan.load(folder / "plan.json"), Outcome.load(folder / "outcome.json")
    weights = folder / WEIGHTS
    if not weights.exists():
        raise UserError(f"{weights} is missing", saw=f"no file {weights.absolute()}", fix="run `dvc repro train`")
    found = digest_file(weights)
    if found != outcome.weights_sha256:
        saw = f"SHA-256 {found[:16]}, written as {outcome.weights_sha256[:16]}"
        raise UserError(f"{weights} was changed after training", saw=saw, fix="run `dvc repro train`")
    model = Decoder(plan.model)
    model.load_state_dict(load_file(weights))
    return model.to(device, dtype).eval(), plan
