"""What each layer costs, and the whole decoder, so that planning and sizing need no layers.

The prices stand beside the goods, in a file without torch; a test builds every variant and compares (tests/test_model_price.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import add

from pufferfish.schema.plan import ModelPlan

BIGRAM_ROWS_PER_TOKEN = 5  # of the vocabulary
QUERIES_AT_ONCE, MANY_QUERIES = 128, 1024  # of explicit attention; twice as many at once from that context on


@dataclass(frozen=True)
class Price:
    """Cost of one layer or of a whole model. Prices of layers add up.

    FLOPs are those of matrix products in forward and backward together (6 per parameter and token, 2 + 4), as everyone counts them.
    Activations are what is held where memory peaks, at the start of the backward pass: what the eager forward pass keeps.
    """

    num_params: int = 0  # trained
    matmul_params: int = 0  # that every token is multiplied with
    flops_per_token: float = 0.0
    activation_elements_per_token: float = 0.0  # in the compute dtype
    block_elements_per_token: float = 0.0  # of the activations, those of one block
    float32_elements_per_token: float = 0.0  # that stay in float32 whatever the compute dtype
    logits_per_token: int = 0  # of the head, which are held for a chunk of tokens at a time
    num_operations: int = 0  # eager kernel launches, forward and backward

    def __add__(self, other: Price) -> Price:
        return Price(*map(add, vars(self).values(), vars(other).values()))

    def __mul__(self, count: int) -> Price:
        return Price(*(mine * count for mine in vars(self).values()))


def decoder_price(plan: ModelPlan, *, attention: str) -> Price:
    """The whole model: embedding, lookup, blocks, final norm, head."""
    embedding = Price(num_params=plan.vocab_size * plan.d_model, num_operations=6) + lookup_price(plan, attention=attention)
    block = attention_price(plan, attention=attention) + mlp_price(plan) + norm_price(plan.d_model) * 2
    block = block + Price(num_operations=4)
    price = embedding + block * plan.num_layers + norm_price(plan.d_model) + head_price(plan.d_model, plan.vocab_size, is_tied=plan.is_tied)
    return replace(price, block_elements_per_token=block.activation_elements_per_token)


def lookup_price(plan: ModelPlan, *, attention: str) -> Price:
    """The table beside the stock architecture; nothing where there is none."""
    match plan.lookup:
        case "bigram":
            return bigram_price(plan)
        case "value":
            return value_embedding_price(plan, attention=attention)
        case "none":
            return Price()


def attention_price(plan: ModelPlan, *, attention: str) -> Price:
    """One attention layer. Causal scores count half of T x T, as the kernels that skip the other half do; explicit ones what their blocks meet.

    Grouped keys and values count as repeated, though some kernels take them as they are (attention.py): with four to a group that is 3 % more of a block.
    """
    width, kv_width = plan.num_heads * plan.head_dim, plan.num_kv_heads * plan.head_dim
    matrices = plan.d_model * (2 * width + 2 * kv_width)
    heads = plan.num_heads + plan.num_kv_heads
    if attention == "explicit":
        blocks = query_blocks(plan.seq_len)
        seen = sum((end - first) * end for first, end in blocks) / plan.seq_len
        kept = 4 * width + plan.num_heads * seen  # queries, repeated keys and values, their mixture; probabilities
    else:
        # Rotated queries and keys, mixture, normalizers; and the joint product for its values, or repeated keys and values.
        seen, kept = plan.seq_len / 2, 2 * width + kv_width + plan.num_heads + (2 * width if _is_grouped(plan) else width + 2 * kv_width)
    qk_norm = Price(num_params=2 * plan.head_dim, activation_elements_per_token=width + kv_width + heads, num_operations=17)
    price = Price(
        num_params=matrices,
        matmul_params=matrices,
        flops_per_token=6 * matrices + 12 * width * seen,
        activation_elements_per_token=kept,
        num_operations=60 if attention != "explicit" else 60 + 9 * (len(blocks) - 1),
    )
    return price + qk_norm if plan.has_qk_norm else price


def query_blocks(seq_len: int) -> list[tuple[int, int]]:
    """First and end of the queries that explicit attention takes at a time. Smaller ones skip more of the future, in more operations (docs/LOG.md)."""
    size = QUERIES_AT_ONCE if seq_len < MANY_QUERIES else 2 * QUERIES_AT_ONCE
    return [(first, min(seq_len, first + size)) for first in range(0, seq_len, size)]


def _is_grouped(plan: ModelPlan) -> bool:
    return plan.num_kv_heads < plan.num_heads


def mlp_price(plan: ModelPlan) -> Price:
    """One feed-forward layer; its input is kept by the norm before it."""
    matrices = 3 * plan.d_model * plan.d_ff
    return Price(
        num_params=matrices,
        matmul_params=matrices,
        flops_per_token=6 * matrices,
        activation_elements_per_token=4 * plan.d_ff,
        num_operations=20,
    )


def norm_price(d_model: int, *, is_trained: bool = False) -> Price:
    """One norm of this width: its result, which the layer behind it keeps anyway, and its scale."""
    return Price(num_params=d_model if is_trained else 0, activation_elements_per_token=d_model + 1, num_operations=11)


def bigram_price(plan: ModelPlan) -> Price:
    """The table, and its rows' 64-bit numbers."""
    return Price(num_params=BIGRAM_ROWS_PER_TOKEN * plan.vocab_size * plan.d_model, float32_elements_per_token=2, num_operations=9)


def value_embedding_price(plan: ModelPlan, *, attention: str) -> Price:
    """The table and a sum. Where the kernel keeps values as part of the joint product, and not repeated, it now keeps the sum, and the product is let go."""
    width, kv_width = plan.num_heads * plan.head_dim, plan.num_kv_heads * plan.head_dim
    kept = 0 if attention == "explicit" or _is_grouped(plan) else -width - kv_width
    return Price(num_params=plan.vocab_size * kv_width, activation_elements_per_token=kept, num_operations=6)


def head_price(d_model: int, vocab_size: int, *, is_tied: bool) -> Price:
    """The vocabulary head and its loss, which keep the gradient of the hidden states from the forward pass on."""
    matrix = d_model * vocab_size
    return Price(
        num_params=0 if is_tied else matrix,
        matmul_params=matrix,
        flops_per_token=6 * matrix,
        activation_elements_per_token=d_model,
        logits_per_token=vocab_size,
        num_operations=18,
    )
