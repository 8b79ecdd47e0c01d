"""The shape of the schedule: warm-up, stable, linear cooldown, as a function of progress u in [0, 1]."""

from __future__ import annotations

from pufferfish.schema.plan import TrainPlan


def lr_share(u: float, plan: TrainPlan) -> float:
    """Multiplier of the peak learning rates at progress u: rises from 0 over the warm-up, is 1, falls linearly to `final_lr_share` at u = 1.

    Warm-up, stable and cooldown with a linear end: Hu et al., 2024, arXiv 2404.06395; Hägele et al., 2024, arXiv 2405.18392.
    """
    assert 0 <= u <= 1
    warmup = min(1.0, (u + 1e-9) / plan.warmup_share) if plan.warmup_share else 1.0
    into_cooldown = (u - (1 - plan.cooldown_share)) / plan.cooldown_share if plan.cooldown_share else 0.0
    cooldown = 1 - (1 - plan.final_lr_share) * min(1.0, max(0.0, into_cooldown))
    return min(warmup, cooldown)
