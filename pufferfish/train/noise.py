"""Inputs replaced by random tokens, targets left as they are: a text that is read many times cannot be learned by heart so easily (docs/LOG.md).

What is replaced follows from the window itself by a hash, so that there is no random state to save, and a resumed or replayed training repeats it. Each epoch
cuts other windows, which are corrupted otherwise.

Shapes: B sequences, T time.
"""

from __future__ import annotations

import torch

# An odd multiplier and shifts of a 64-bit mixer ("splitmix64", Steele et al., 2014, doi 10.1145/2660193.2660195), as signed integers.
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
SHIFTS = (30, 27, 31)
STEP = -0x61C8864680B583EB
CHOICES = 1 << 16


def corrupt(inputs_BT: torch.Tensor, share: float, vocab_size: int) -> torch.Tensor:
    """Token ids of which about `share` are replaced by others from the whole vocabulary."""
    positions_T = torch.arange(1, inputs_BT.shape[1] + 1, device=inputs_BT.device)
    window_B1 = _mixed((inputs_BT * positions_T).sum(1, keepdim=True))
    mixed_BT = _mixed(window_B1 + positions_T * STEP)
    is_replaced_BT = mixed_BT % CHOICES < share * CHOICES
    return torch.where(is_replaced_BT, (mixed_BT >> 20) % vocab_size, inputs_BT)


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Every bit of the result depends on every bit of the number."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        numbers = (numbers ^ ((numbers >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return numbers
