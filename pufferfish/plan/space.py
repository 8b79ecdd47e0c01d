"""The configurations worth pricing: shapes, contexts and vocabularies on a grid, what the user pinned kept as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pufferfish.base.errors import UserError
from pufferfish.schema.params import ModelParams
from pufferfish.schema.plan import ModelPlan

LAYERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 30)
WIDTHS = (64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
CONTEXTS = (128, 256, 512, 1024, 2048)
VOCABULARIES = (260, 384, 512, 1024, 2048, 4096, 8192, 16384, 32768)
ASPECTS = (20.0, 200.0)  # width per layer: the loss varies by under 3 % between 10 and 200 (Kaplan et al., 2020, arXiv 2001.08361)

# Heads of 64, two at least, are 2 % better than those of 32 in widths of 96, 128 and 160, and 3 to 5 % better than a lone one in 64, 96 and 128 (docs/LOG.md):
# the planted circuit carries as many components of a token as a head is wide.
HEAD_DIM, FEWEST_HEADS = 64, 2
FEW_HEADS = 12  # from here on, four query heads share a key/value head: it saves cache and parameters and costs nothing measurable
ROPE_THETA, NORM_EPS = 1e4, 1e-6


def models(wish: ModelParams, vocab_sizes: Sequence[int], *, max_seq_len: int) -> Iterator[ModelPlan]:
    """Every legal model on the grid. Raises UserError if the pinned values leave none."""
    contexts = [c for c in CONTEXTS if c <= max_seq_len] or [max_seq_len]
    found = False
    for d_model in _pinned(wish.d_model, WIDTHS):
        heads = _heads(wish, d_model)
        if heads is None:
            continue
        for num_layers in _pinned(wish.num_layers, LAYERS):
            if wish.num_layers == wish.d_model == "auto" and not ASPECTS[0] <= d_model / num_layers <= ASPECTS[1]:
                continue
            for vocab_size in vocab_sizes:
                for seq_len in _pinned(wish.seq_len, contexts):
                    found = True
                    yield _model(wish, vocab_size, num_layers, d_model, heads, seq_len)
    if not found:
        saw = ", ".join(f"model.{name}: {value}" for name, value in wish.pins.items())
        fix = f"leave {'one of them' if len(wish.pins) > 1 else 'it'} `auto`"
        if isinstance(wish.num_heads, int) and wish.head_dim == "auto":
            fix += f", or pin `model.head_dim` or a `model.d_model` that is a multiple of {2 * wish.num_heads}"
        raise UserError("no model has the pinned shape", saw=saw, fix=fix)


def _pinned(value: int | str, choices: Sequence[int]) -> Sequence[int]:
    return choices if isinstance(value, str) else [value]


def _heads(wish: ModelParams, d_model: int) -> tuple[int, int, int] | None:
    """Query heads, key/value heads and their width for a width of the model, or None where the pinned numbers do not fit."""
    kv_heads = wish.num_kv_heads if isinstance(wish.num_kv_heads, int) else 0
    head_dim = wish.head_dim if isinstance(wish.head_dim, int) else min(HEAD_DIM, d_model)
    if isinstance(wish.num_heads, int):
        num_heads = wish.num_heads
        if kv_heads and num_heads % kv_heads:
            return None
        if wish.head_dim == "auto":
            if d_model % (2 * num_heads):
                return None
            head_dim = d_model // num_heads
    else:
        num_heads = max(FEWEST_HEADS, int(d_model / head_dim + 0.5))
        if kv_heads:
            num_heads = kv_heads * max(1, round(num_heads / kv_heads))
    grouped = num_heads // 4 if num_heads >= FEW_HEADS and num_heads % 4 == 0 else num_heads
    return num_heads, kv_heads or grouped, head_dim


def _model(wish: ModelParams, vocab_size: int, num_layers: int, d_model: int, heads: tuple[int, int, int], seq_len: int) -> ModelPlan:
    return ModelPlan(
        vocab_size=vocab_size,
        num_layers=num_layers,
        d_model=d_model,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=heads[2],
        d_ff=wish.d_ff if isinstance(wish.d_ff, int) else max(32, round(d_model * 8 / 3 / 32) * 32),
        seq_len=seq_len,
        rope_theta=ROPE_THETA,
        norm_eps=NORM_EPS,
        is_tied=wish.is_tied if isinstance(wish.is_tied, bool) else False,
        has_qk_norm=wish.has_qk_norm if isinstance(wish.has_qk_norm, bool) else True,
        lookup=wish.lookup if wish.lookup != "auto" else "none" if wish.portable else "value",  # a text that is read too often drops it: lookup.py
    )
