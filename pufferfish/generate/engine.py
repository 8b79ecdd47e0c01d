"""Text from a trained model, streamed while it is made.

B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tokenizers import Tokenizer

from pufferfish.data.tokenizer import SEPARATOR
from pufferfish.generate.sample import Sampling, sample_token
from pufferfish.generate.text import TextStream
from pufferfish.model.cache import KeyValueCache
from pufferfish.model.transformer import Decoder


class Engine:
    """A model and its tokenizer, ready to write."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer) -> None:
        separator_id = tokenizer.token_to_id(SEPARATOR)
        assert separator_id is not None, f"the tokenizer has no {SEPARATOR}"
        self.model, self.tokenizer, self.separator_id = model, tokenizer, separator_id

    def stream(self, prompt: str, *, max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int) -> Iterator[str]:
        """Pieces of text that follow the prompt, each whole characters, until `max_tokens` or the end of the document.

        An empty prompt begins a new document. An incomplete character at the very end shows as U+FFFD.
        Raises UserError for sampling settings without a meaning.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        text = TextStream(self.tokenizer)
        prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids or [self.separator_id]
        return self._pieces(prompt_ids, text, max_tokens=max_tokens, sampling=sampling, seed=seed)

    def _pieces(self, prompt_ids: list[int], text: TextStream, *, max_tokens: int, sampling: Sampling, seed: int) -> Iterator[str]:
        for token in self.tokens(prompt_ids, max_tokens=max_tokens, sampling=sampling, seed=seed):
            if piece := text.push(token):
                yield piece
        if rest := text.finish():
            yield rest

    def tokens(self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling, seed: int) -> Iterator[int]:
        """Token ids that follow `prompt_ids`, without the separator that ends them.

        The model sees the last `seq_len` tokens of a longer prompt. When its context is full, it goes on with the newer half.
        """
        seq_len = self.model.plan.seq_len
        generator = torch.Generator().manual_seed(seed)
        ids = list(prompt_ids)
        cache, logits_BV = self._read(ids[-seq_len:])
        num_seen = min(len(ids), seq_len)
        for _ in range(max_tokens):
            token = sample_token(logits_BV[0], sampling, generator)
            if token == self.separator_id:
                return
            yield token
            ids.append(token)
            if num_seen == seq_len:
                num_seen = max(1, seq_len // 2)
                cache, logits_BV = self._read(ids[-num_seen:])
            else:
                num_seen += 1
                logits_BV = self._decode([token], cache)

    def _read(self, ids: list[int]) -> tuple[KeyValueCache, torch.Tensor]:
        weight = self.model.head_weight
        cache = KeyValueCache(self.model.plan, 1, self.model.plan.seq_len, weight.dtype, weight.device)
        return cache, self._decode(ids, cache)

    @torch.inference_mode()
    def _decode(self, ids: list[int], cache: KeyValueCache) -> torch.Tensor:
        tokens_BT = torch.tensor([ids], device=self.model.head_weight.device)
        return self.model.decode(tokens_BT, cache)
