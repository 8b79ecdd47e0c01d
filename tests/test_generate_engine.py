"""Streaming gives the text that the uncached model gives, in whole characters, also past the end of the context."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pufferfish.base.errors import UserError
from pufferfish.generate.engine import Engine
from pufferfish.generate.sample import Sampling, sample_token
from pufferfish.generate.text import TextStream, byte_alphabet
from pufferfish.model.transformer import Decoder
from pufferfish.schema.plan import ModelPlan

SEPARATOR_ID = 256
TEXTS = ["déjà vu", "👩‍👩‍👧 and 한글", "tab\tnew\r\nline", "", "plain"]


def toy_tokenizer():
    """One token for each byte and the separator: every character beyond ASCII takes several tokens."""
    vocabulary = byte_alphabet() | {"<|endoftext|>": SEPARATOR_ID}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer


def toy_model(*, seq_len=11, is_tied=False):
    plan = ModelPlan(
        vocab_size=257, num_layers=2, d_model=24, num_heads=6, num_kv_heads=2, head_dim=4, d_ff=20, seq_len=seq_len,
        rope_theta=500.0, norm_eps=1e-5, is_tied=is_tied, has_qk_norm=True, lookup="none",
    )  # fmt: skip
    model = Decoder(plan).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def reference(model, prompt_ids, *, max_tokens, sampling, seed):
    """The same tokens from whole forward passes over what the model may see."""
    seq_len, generator = model.plan.seq_len, torch.Generator().manual_seed(seed)
    ids, seen, written = list(prompt_ids), list(prompt_ids)[-seq_len:], []
    while len(written) < max_tokens:
        with torch.no_grad():
            logits = model(torch.tensor([seen]))[0, -1]
        token = sample_token(logits, sampling, generator)
        if token == SEPARATOR_ID:
            break
        written.append(token)
        ids.append(token)
        seen = ids[-(seq_len // 2) :] if len(seen) == seq_len else [*seen, token]
    return written


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=0.9, top_k=40, top_p=0.9)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("num_prompt", [1, 4, 10, 11, 12, 40])
def test_cached_text_equals_uncached_text(sampling, num_prompt):
    engine = Engine(toy_model(), toy_tokenizer())
    prompt_ids = [(7 * place) % 251 for place in range(num_prompt)]
    found = list(engine.tokens(prompt_ids, max_tokens=30, sampling=sampling, seed=5))
    assert found == reference(engine.model, prompt_ids, max_tokens=30, sampling=sampling, seed=5)
    assert len(found) > 11  # past the end of the context


def test_cached_logits_equal_the_forward_pass():
    from pufferfish.model.cache import KeyValueCache

    model = toy_model(is_tied=True)
    tokens_BT = torch.randint(0, 257, (3, 11), generator=torch.Generator().manual_seed(2))
    cache = KeyValueCache(model.plan, 3, 11, torch.float32, "cpu")
    with torch.no_grad():
        logits_BTV = model(tokens_BT)
        for start, end in ((0, 4), (4, 5), (5, 6), (6, 11)):
            torch.testing.assert_close(model.decode(tokens_BT[:, start:end], cache), logits_BTV[:, end - 1], atol=1e-4, rtol=1e-4)


def test_a_seed_names_a_text_and_pieces_join_to_it():
    engine = Engine(toy_model(), toy_tokenizer())
    settings = {"max_tokens": 25, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    first, again, other = ("".join(engine.stream("ab", **settings, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    tokens = list(engine.tokens([97, 98], max_tokens=25, sampling=Sampling(), seed=1))
    assert first == bytes(tokens).decode("utf-8", errors="replace")


def test_the_separator_ends_the_text():
    engine = Engine(toy_model(), toy_tokenizer())
    head = torch.zeros_like(engine.model.lm_head.weight)
    engine.model.lm_head.weight.data = head
    first_four = list(engine.tokens([5], max_tokens=4, sampling=Sampling(temperature=0), seed=0))
    assert first_four == [0, 0, 0, 0]  # all logits equal
    engine.separator_id = 0
    assert list(engine.tokens([5], max_tokens=4, sampling=Sampling(temperature=0), seed=0)) == []


def test_an_empty_prompt_begins_a_document():
    engine = Engine(toy_model(), toy_tokenizer())
    settings = {"max_tokens": 6, "temperature": 0, "top_k": 0, "top_p": 1.0, "seed": 0}
    expected = list(engine.tokens([SEPARATOR_ID], max_tokens=6, sampling=Sampling(temperature=0), seed=0))
    assert "".join(engine.stream("", **settings)) == bytes(expected).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_join_to_the_text(text):
    tokenizer, stream = toy_tokenizer(), None
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode(text).ids]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert stream.finish() == ""


def test_a_character_cut_short_shows_as_a_replacement():
    tokenizer = toy_tokenizer()
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in tokenizer.encode("é").ids[:1]] == [""]
    assert stream.finish() == "\ufffd"


def test_wrong_settings_are_refused_before_anything_is_computed():
    with pytest.raises(UserError):
        Engine(toy_model(), toy_tokenizer()).stream("x", max_tokens=3, temperature=-1, top_k=0, top_p=1.0, seed=0)
