"""One optimizer step: forward, backward, clip, update. The same code trains and is timed by the planner.

Shapes: B sequences of a micro-batch, T time; a batch is (B, T + 1) token ids, inputs and targets overlapping.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch

from pufferfish.base import registry
from pufferfish.base.memory import give_back_freed
from pufferfish.model.init import initialize
from pufferfish.model.loss import Lesson
from pufferfish.model.transformer import Decoder
from pufferfish.schema.plan import ModelPlan, TrainPlan
from pufferfish.train import memory
from pufferfish.train.noise import corrupt
from pufferfish.train.optimizers.adamw import Optimizer
from pufferfish.train.precision import DTYPES, MasterWeights


class Trainer:
    """A model under training: its weights, their float32 masters and the optimizers. `tokens_N` is the text that it will learn from, for initial values."""

    def __init__(self, model_plan: ModelPlan, plan: TrainPlan, tokens_N: np.ndarray | None = None) -> None:
        self.plan, self.model_plan = plan, model_plan
        self.device = torch.device(plan.device)
        if plan.device == "cpu":
            torch.set_num_threads(plan.num_threads)
        else:
            memory.hold_to(plan.memory_bytes)
        model = Decoder(model_plan, attention=plan.attention, is_checkpointed=plan.is_checkpointed)
        initialize(model, seed=plan.seed, tokens_N=tokens_N)
        give_back_freed()
        self.model = model.to(self.device)
        self.weights = MasterWeights(self.model, DTYPES[plan.dtype])
        self._teacher = copy.deepcopy(self.model).eval().requires_grad_(False) if plan.teacher_share else None
        self.optimizers: list[Optimizer] = registry.load("optimizer", plan.optimizer)(self.weights.masters, plan)
        self._loss = torch.compile(self.model.loss, dynamic=False) if plan.is_compiled else self.model.loss
        self.micro_batch = plan.micro_batch

    @property
    def sequences_per_step(self) -> int:
        """Sequences in one optimizer step."""
        return self.plan.tokens_per_step // self.model_plan.seq_len

    def to_device(self, batch: np.ndarray) -> torch.Tensor:
        """A batch of token ids (B, T + 1) on the device; on an accelerator the copy overlaps with computing."""
        tensor = torch.from_numpy(batch)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def step(self, batches: Iterable[np.ndarray], *, lr_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Train on micro-batches that make up one step; returns mean loss (nats) and gradient norm as tensors on the device, not yet waited for."""
        num_micro = self.sequences_per_step / self.micro_batch
        scale = self.weights.loss_scale.value if self.weights.loss_scale else 1.0
        total = torch.zeros((), device=self.device)
        for batch in batches:
            tokens = self.to_device(batch)
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            lesson = self._lesson(inputs)
            if self.plan.input_noise:
                inputs = corrupt(inputs, self.plan.input_noise, self.model_plan.vocab_size)
            loss = self._loss(inputs, targets, lesson)
            (loss * (scale / num_micro)).backward()
            total += loss.detach() / num_micro
        self.weights.collect_gradients()
        grad_norm = self._clip()
        if self._may_update(grad_norm):
            for optimizer in self.optimizers:
                optimizer.step(lr_share)
        self.weights.distribute()
        return total, grad_norm

    @torch.no_grad()
    def teach(self, weights: dict[str, torch.Tensor]) -> None:
        """Learn from a model with these weights from now on, by the names of the masters; nothing where there is no teacher."""
        if self._teacher:
            parameters = dict(self._teacher.named_parameters())
            torch._foreach_copy_([parameters[name] for name in weights], list(weights.values()))

    @torch.no_grad()
    def _lesson(self, inputs_BT: torch.Tensor) -> Lesson | None:
        """What the teacher makes of the inputs as they are in the text; nothing where there is none."""
        if not self._teacher:
            return None
        return Lesson(self._teacher.model(inputs_BT).flatten(0, 1), self._teacher.head_weight, self.plan.teacher_share)

    def drop_gradients(self) -> None:
        """After a step that failed half-way."""
        for parameter in (*self.weights.masters.values(), *self.model.parameters()):
            parameter.grad = None

    def _clip(self) -> torch.Tensor:
        masters = list(self.weights.masters.values())
        gradients = [master.grad for master in masters]
        assert all(gradient is not None for gradient in gradients), "a weight got no gradient"
        grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self.plan.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(masters, self.plan.clip_norm, grad_norm)
        return grad_norm

    def _may_update(self, grad_norm: torch.Tensor) -> bool:
        """A gradient that is not finite ruins all weights. On an accelerator to ask for it is to wait, which only float16 has to."""
        scale = self.weights.loss_scale
        if scale is None and self.device.type != "cpu":
            return True
        is_finite = bool(torch.isfinite(grad_norm))
        if scale:
            scale.update(is_finite)
        return is_finite

    def dry_step(self, batches: list[np.ndarray]) -> None:
        """Everything that a first step pays for (compilation, allocation, kernel selection), leaving weights and optimizers as they were."""
        scale = self.weights.loss_scale
        saved = (scale.value, scale.good_steps) if scale else None
        self.step(batches, lr_share=0.0)
        for optimizer in self.optimizers:
            optimizer.reset()
        if scale and saved:
            scale.value, scale.good_steps = saved
        self.synchronize()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def mean_loss(self, inputs_BT: np.ndarray, targets_BT: np.ndarray) -> float:
        """Mean loss in nats per token without training, in the dtype of training: of the teacher where there is one, since that is what will be kept."""
        model = self._teacher or self.model
        model.eval()
        losses = model.losses(self.to_device(inputs_BT), self.to_device(targets_BT))
        self.model.train()
        return float(losses.mean())

    def exported_weights(self) -> dict[str, torch.Tensor]:
        """All weights by the names of the stock architecture, float32, on the CPU."""
        weights = {**dict(self.model.state_dict()), **self.weights.masters}
        return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in weights.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on, as named tensors."""
        tensors = {f"weight.{name}": tensor.detach() for name, tensor in self.weights.masters.items()}
        for optimizer in self.optimizers:
            tensors |= optimizer.state()
        if self.weights.loss_scale:
            tensors["loss_scale"] = torch.tensor([self.weights.loss_scale.value, float(self.weights.loss_scale.good_steps)])
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from `state`, bit for bit."""
        for name, master in self.weights.masters.items():
            master.copy_(tensors[f"weight.{name}"])
        for optimizer in self.optimizers:
            optimizer.load_state(tensors)
        if self.weights.loss_scale:
            self.weights.loss_scale.value, self.weights.loss_scale.good_steps = float(tensors["loss_scale"][0]), int(tensors["loss_scale"][1])
        self.weights.distribute()
