"""Tables beside the stock architecture: they look up what they should, start as nothing, and train and resume like the embedding."""

import pytest
import torch
from toys import model_plan, train_plan

from pufferfish.generate.engine import Engine
from pufferfish.generate.sample import Sampling
from pufferfish.model.bigram import CURRENT, PREVIOUS, bigram_rows
from pufferfish.model.init import initialize
from pufferfish.model.transformer import Decoder
from pufferfish.train.optimizers.groups import kind_of
from pufferfish.train.step import Trainer

TABLES = {"bigram": "model.bigram_embedding.weight", "value": "model.value_embedding.weight"}
each_lookup = pytest.mark.parametrize("lookup", TABLES)
each_optimizer = pytest.mark.parametrize("optimizer", ["adamw", "muon"])


def text(batch, length, *, seed=0):
    return torch.randint(0, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


def initialized(lookup):
    model = Decoder(model_plan(lookup=lookup))
    initialize(model, seed=4)
    return model


@each_lookup
def test_a_table_starts_as_nothing_and_changes_no_other_weight(lookup):
    model, plain = initialized(lookup), initialized("none")
    weights = model.state_dict()
    assert not weights.pop(TABLES[lookup]).any()
    assert weights.keys() == plain.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(model(text(2, 20)), plain(text(2, 20)), atol=1e-6, rtol=0)


def test_the_last_layer_hands_on_the_rows_of_the_tokens_with_its_values():
    model = initialized("value")
    table = model.model.value_embedding.weight
    table.data = torch.randn(97, 16, generator=torch.Generator().manual_seed(1))
    *before, last_BTKH = model.model.added_values(text(5, 1))
    assert before == [None, None]
    assert torch.equal(last_BTKH, table[text(5, 1)].view(5, 1, 2, 8))
    attention = model.model.layers[-1].self_attn
    attention.o_proj.weight.data = torch.eye(48)[:40]
    x_BTD, cos, sin = torch.randn(5, 1, 40), model.model.cos[:1], model.model.sin[:1]
    added = attention(x_BTD, cos, sin, last_BTKH) - attention(x_BTD, cos, sin)  # one position, which sees itself alone
    torch.testing.assert_close(added[:, 0], last_BTKH[:, 0].repeat_interleave(3, dim=1).flatten(1)[:, :40])


def test_a_pair_looks_up_the_row_of_its_hash():
    rows = bigram_rows(torch.tensor([[5, 7, 5, 7]]), None, num_rows=485)
    pair = (CURRENT * 7 ^ PREVIOUS * 5) % 484
    assert rows.tolist() == [[484, pair, (CURRENT * 5 ^ PREVIOUS * 7) % 484, pair]]
    assert bigram_rows(torch.tensor([[7]]), torch.tensor([5]), num_rows=485).tolist() == [[pair]]


def test_pairs_spread_over_all_rows():
    """As balls in bins: of 5 V rows, a share of 1 / e stays empty for as many pairs."""
    num_rows = 5 * 2048
    pairs = torch.randint(0, 2048, (num_rows, 2), generator=torch.Generator().manual_seed(0))
    rows = bigram_rows(pairs, None, num_rows=num_rows)[:, 1]
    assert 0 <= rows.min() < 50 < num_rows - 50 < rows.max() < num_rows - 1
    assert rows.unique().numel() / num_rows == pytest.approx(1 - 0.368, abs=0.02)


def test_the_first_position_knows_no_token_before_it():
    model = Decoder(model_plan(lookup="bigram"))
    initialize(model, seed=4)
    before = model.model.embed(text(1, 1))
    model.model.bigram_embedding.weight.data[-1] = 1.0
    assert torch.equal(model.model.embed(text(1, 1)), before + 1)
    assert torch.equal(model.model.embed(text(1, 1), torch.tensor([3])), before)


@each_lookup
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_table_is_kept_and_updated_like_the_embedding(lookup, dtype):
    trainer = Trainer(model_plan(lookup=lookup), train_plan(dtype=dtype))
    table = dict(trainer.model.named_parameters())[TABLES[lookup]]
    assert kind_of(TABLES[lookup], table) == "embedding"
    assert trainer.weights.masters[TABLES[lookup]] is table
    assert table.dtype == torch.float32
    [holder] = [each for each in trainer.optimizers if TABLES[lookup] in each.weights]
    assert "model.embed_tokens.weight" in holder.weights


@each_lookup
@each_optimizer
def test_a_training_with_a_table_goes_on_from_its_state_bit_for_bit(lookup, optimizer):
    one, other = (Trainer(model_plan(lookup=lookup), train_plan(optimizer=optimizer, dtype="bfloat16", seed=seed)) for seed in (0, 77))
    for step in range(3):
        one.step([text(3, 21, seed=10 * step + part).numpy() for part in range(2)], lr_share=1.0)
    assert one.weights.masters[TABLES[lookup]].any()
    other.load_state({name: tensor.clone() for name, tensor in one.state().items()})
    for trainer in (one, other):
        trainer.step([text(3, 21, seed=99 + part).numpy() for part in range(2)], lr_share=0.7)
    states = one.state(), other.state()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@each_lookup
def test_text_past_the_end_of_the_context_is_that_of_the_uncached_model(lookup):
    class Separator:
        def token_to_id(self, _):
            return 96

    model, generator = Decoder(model_plan(lookup=lookup, seq_len=11)).eval(), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.lm_head.weight.data[96] = 0
    found = list(Engine(model, Separator()).tokens([5, 9, 3], max_tokens=25, sampling=Sampling(temperature=0), seed=0))
    seen = [5, 9, 3]
    for token in found:
        with torch.no_grad():
            assert int(model(torch.tensor([seen]))[0, -1].argmax()) == token
        seen = [*seen, token][-5:] if len(seen) == 11 else [*seen, token]
    assert len(found) > 11
