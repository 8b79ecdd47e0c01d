"""The model of this folder, for transformers: a Qwen3 with a table beside it, which no stock architecture has.

Pufferfish wrote the model and put this file beside it; it needs PyTorch and transformers 5, nothing else. `lookup` in config.json names the table:

    value    a row for each token joins the values of the last attention layer
    bigram   a row for each hashed pair of a token and the one before it joins the embedding

Without QK-norm (`has_qk_norm`) the rest is a Llama.
"""

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Model, apply_rotary_pos_emb, eager_attention_forward

ROWS_PER_TOKEN = 5  # of the vocabulary, in the table of pairs; its last row is for a token that nothing precedes
CURRENT, PREVIOUS = 36313, 27191  # factors of the hash
NOTHING = -1  # in place of a previous token


class PufferfishConfig(Qwen3Config):
    """What the model is."""

    model_type = "pufferfish"

    lookup: str = "value"
    has_qk_norm: bool = True


class PufferfishAttention(Qwen3Attention):
    """Attention whose values may be joined by what was looked up for their tokens."""

    def __init__(self, config: PufferfishConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.is_last = layer_idx == config.num_hidden_layers - 1
        if not config.has_qk_norm:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values=None, token_values=None, **kwargs):
        """As Qwen3's. `token_values`, (batch, time, key/value heads x head width), count in the last layer only."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        values = self.v_proj(hidden_states)
        if self.is_last and token_values is not None:
            values = values + token_values
        query = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        value = values.view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(mixed.reshape(*hidden_states.shape[:-1], -1)), weights


class PufferfishModel(Qwen3Model):
    """The decoder without its head."""

    config_class = PufferfishConfig

    def __init__(self, config: PufferfishConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = PufferfishAttention(config, index)
        if config.lookup == "value":
            self.value_embedding = nn.Embedding(config.vocab_size, config.num_key_value_heads * config.head_dim)
        elif config.lookup == "bigram":
            self.bigram_embedding = nn.Embedding(ROWS_PER_TOKEN * config.vocab_size, config.hidden_size)
        else:
            raise ValueError(f"lookup is `value` or `bigram`, not `{config.lookup}`")
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, previous_ids=None, **kwargs):
        """As Qwen3's, from tokens alone. `previous_ids` are the tokens before each of `input_ids`, needed where some are in the cache (`generate` sees to it).

        Raises ValueError where the tokens or those before them are unknown.
        """
        if input_ids is None:
            raise ValueError("this model looks up tokens: give `input_ids`, not `inputs_embeds`")
        more = {"attention_mask": attention_mask, "past_key_values": past_key_values, **kwargs}
        if self.config.lookup == "value":
            return super().forward(input_ids=input_ids, token_values=self.value_embedding(input_ids), **more)
        if previous_ids is None:
            if past_key_values is not None and past_key_values.get_seq_length() > 0:
                raise ValueError("this model looks up pairs of tokens: with tokens in the cache, give `previous_ids`, the token before each of `input_ids`")
            previous_ids = tokens_before(input_ids, attention_mask)
        pairs = self.bigram_embedding(bigram_rows(input_ids, previous_ids, num_rows=self.bigram_embedding.num_embeddings))
        return super().forward(inputs_embeds=self.embed_tokens(input_ids) + pairs, **more)


class PufferfishForCausalLM(Qwen3ForCausalLM):
    """The decoder with its head."""

    config_class = PufferfishConfig

    def __init__(self, config: PufferfishConfig) -> None:
        super().__init__(config)
        self.model = PufferfishModel(config)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, *args, **kwargs):
        """As always, with the tokens before those that the cache does not hold yet."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if self.config.lookup == "bigram" and inputs.get("input_ids") is not None:
            num_new = inputs["input_ids"].shape[1]
            inputs["previous_ids"] = tokens_before(input_ids, kwargs.get("attention_mask"))[:, -num_new:]
        return inputs


def tokens_before(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The token before each; `NOTHING` before the first one and after padding."""
    before = nn.functional.pad(input_ids[:, :-1], (1, 0), value=NOTHING)
    if attention_mask is not None and attention_mask.ndim == 2:
        is_padding = nn.functional.pad(attention_mask[:, -input_ids.shape[1] : -1], (1, 0), value=1) == 0
        before = before.masked_fill(is_padding, NOTHING)
    return before


def bigram_rows(input_ids: torch.Tensor, previous_ids: torch.Tensor, *, num_rows: int) -> torch.Tensor:
    """Which row each token looks up with the one before it."""
    rows = (CURRENT * input_ids ^ PREVIOUS * previous_ids) % (num_rows - 1)
    return rows.masked_fill(previous_ids == NOTHING, num_rows - 1)
