"""A trained model from its folder, after checking that it is the one that training wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.model.transformer import Decoder
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Outcome

WEIGHTS = "model.safetensors"


def load_model(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Decoder, Plan]:
    """Raises UserError if a file is missing or the weights are not those that training wrote."""
    plan, outcome = Plan.load(folder / "plan.json"), Outcome.load(folder / "outcome.json")
    weights = folder / WEIGHTS
    if not weights.exists():
        raise UserError(f"{weights} is missing", saw=f"no file {weights.absolute()}", fix="run `dvc repro train`")
    found = digest_file(weights)
    if found != outcome.weights_sha256:
        raise UserError(f"{weights} was changed after training", saw=f"SHA-256 {found[:16]}, written as {outcome.weights_sha256[:16]}", fix="run `dvc repro train`")
    with torch.device("meta"):
        model = Decoder(plan.model)
    model.to_empty(device=device)
    model.load_state_dict(load_file(weights, device=str(device)))
    reset_rope(model)
    return model.to(dtype).eval(), plan


def reset_rope(model: Decoder) -> None:
    """Fill the angle tables, which are not stored with the weights."""
    from pufferfish.model.rope import rope_tables

    plan, stack = model.plan, model.model
    cos, sin = rope_tables(plan.seq_len, plan.head_dim, plan.rope_theta)
    stack.cos.copy_(cos)
    stack.sin.copy_(sin)
