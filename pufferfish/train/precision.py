"""Float32 master weights, and a copy of them in the dtype that the matrix products run in.

Matrix products are computed in `dtype`; embeddings and other tables are looked up, and all weights updated, in float32. Compared with automatic casting this
casts each weight once a step and leaves no dtype to guess.
"""

from __future__ import annotations

import torch
from torch import nn

from pufferfish.train.optimizers.groups import kind_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MasterWeights:
    """The float32 weights that optimizers update, by name; `model` computes with a copy of them in `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.masters: dict[str, torch.Tensor] = {}
        self._pairs: list[tuple[torch.Tensor, nn.Parameter]] = []
        for name, parameter in model.named_parameters():
            if dtype == torch.float32 or kind_of(name, parameter) == "embedding":
                self.masters[name] = parameter
                continue
            master = parameter.detach().clone()
            parameter.data = parameter.data.to(dtype)
            self.masters[name] = master
            self._pairs.append((master, parameter))
        self._master_list = [master for master, _ in self._pairs]
        self._copy_list = [parameter for _, parameter in self._pairs]
        self.loss_scale = LossScale() if dtype == torch.float16 else None

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Move the gradients of the copy to the masters, in float32 and without the loss scale."""
        if self._pairs:
            gradients = [torch.empty_like(master) for master in self._master_list]
            torch._foreach_copy_(gradients, [parameter.grad for parameter in self._copy_list])
            for master, parameter, gradient in zip(self._master_list, self._copy_list, gradients, strict=True):
                master.grad, parameter.grad = gradient, None
        if self.loss_scale:
            torch._foreach_mul_([master.grad for master in self.masters.values()], 1 / self.loss_scale.value)

    @torch.no_grad()
    def distribute(self) -> None:
        """Copy the updated masters to the model and drop all gradients."""
        for master in self.masters.values():
            master.grad = None
        if self._pairs:
            torch._foreach_copy_(self._copy_list, self._master_list)


class LossScale:
    """Dynamic loss scaling for float16 (Micikevicius et al., 2018, arXiv 1710.03740): doubled after 200 good steps, halved after an overflow."""

    def __init__(self) -> None:
        self.value, self.good_steps = 2.0**15, 0

    def update(self, is_finite: bool) -> None:
        """Tell whether the gradients of this step were finite."""
        self.good_steps = self.good_steps + 1 if is_finite else 0
        if not is_finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps >= 200:
            self.value, self.good_steps = self.value * 2, 0
