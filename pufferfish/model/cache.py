"""Keys and values of the positions seen so far, so that generation computes each position once.

Shapes: B batch, T new positions, S positions seen, K key/value heads, H head width.
"""

from __future__ import annotations

import torch

from pufferfish.schema.plan import ModelPlan


class LayerCache:
    """Room for `max_len` positions of one layer."""

    def __init__(self, plan: ModelPlan, batch_size: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (batch_size, max_len, plan.num_kv_heads, plan.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, k_BTKH: torch.Tensor, v_BTKH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new positions; returns all keys and values so far, (B, S, K, H) each. Raises ValueError when the room is full."""
        end = self.length + k_BTKH.shape[1]
        if end > self.keys.shape[1]:
            raise ValueError(f"the cache has room for {self.keys.shape[1]} positions, not for {end}")
        self.keys[:, self.length : end], self.values[:, self.length : end] = k_BTKH, v_BTKH
        self.length = end
        return self.keys[:, :end], self.values[:, :end]


class KeyValueCache:
    """One `LayerCache` for each layer, and the token before the next one."""

    def __init__(self, plan: ModelPlan, batch_size: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.layers = [LayerCache(plan, batch_size, max_len, dtype, device) for _ in range(plan.num_layers)]
        self.last_token_B: torch.Tensor | None = None  # None: nothing was seen

    @property
    def length(self) -> int:
        """Positions seen."""
        return self.layers[0].length
