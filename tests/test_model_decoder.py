"""The whole decoder: it does not see the future, decodes as it trains, starts at ln V, and every weight learns."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import model_plan, tokens, train_plan, whole_plan

from pufferfish.base import registry
from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.model.cache import KeyValueCache
from pufferfish.model.init import initialize
from pufferfish.model.load import load_model
from pufferfish.model.transformer import Decoder
from pufferfish.train.step import Trainer

SHAPES = {
    "grouped heads": {},
    "tied": {"is_tied": True},
    "without QK-norm": {"has_qk_norm": False, "num_kv_heads": 6},
    "tied, without QK-norm, one key head": {"is_tied": True, "has_qk_norm": False, "num_kv_heads": 1},
    "pairs looked up": {"lookup": "bigram"},
    "values looked up": {"lookup": "value"},
    "values looked up, tied, without QK-norm": {"lookup": "value", "is_tied": True, "has_qk_norm": False, "num_kv_heads": 6},
}
KERNELS = ["explicit", "sdpa"]
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
each_kernel = pytest.mark.parametrize("attention", KERNELS)


def busy(plan, *, dtype=torch.float32, **settings):
    """A decoder with random values in every weight: initial ones would hide whole blocks behind zeros."""
    model, generator = Decoder(plan, **settings), torch.Generator().manual_seed(3)
    for _, parameter in sorted(model.named_parameters()):
        spread = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * spread if parameter.ndim == 1 else spread * parameter.shape[-1] ** -0.5
    return model.to(dtype)


def text(batch, length, *, vocab_size=97, seed=0):
    return torch.randint(0, vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


@each_kernel
@each_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_future_is_invisible(attention, shape, dtype):
    model = busy(model_plan(**shape), attention=attention, dtype=dtype)
    before = text(2, 20)
    with torch.no_grad():
        expected = model(before)
        for changed in (1, 11, 19):
            after = before.clone()
            after[:, changed] = (after[:, changed] + 1) % 97
            logits = model(after)
            torch.testing.assert_close(logits[:, :changed], expected[:, :changed], atol=1e-6, rtol=0)
            assert (logits[:, changed:] - expected[:, changed:]).abs().amax(-1).min() > 1e-3, "every later position sees the change"


@each_shape
def test_both_attention_kernels_make_the_same_model(shape):
    explicit, fused = (busy(model_plan(**shape), attention=attention) for attention in KERNELS)
    torch.testing.assert_close(explicit(text(3, 20)), fused(text(3, 20)), atol=2e-5, rtol=0)


@each_shape
@pytest.mark.parametrize("pieces", [(20,), (1,) * 20, (7, 1, 1, 8, 3)], ids=str)
def test_decoding_from_the_cache_equals_the_uncached_model(shape, pieces):
    plan = model_plan(**shape)
    model, sequence = busy(plan), text(2, 20)
    with torch.no_grad():
        expected = model(sequence)
        cache = KeyValueCache(plan, 2, 20, torch.float32, "cpu")
        for piece in sequence.split(pieces, dim=1):
            logits = model.decode(piece, cache)
            torch.testing.assert_close(logits, expected[:, cache.length - 1], atol=2e-5, rtol=0)
    assert cache.length == 20


def test_no_position_beyond_context_or_cache_is_decoded():
    plan = model_plan()
    model = busy(plan)
    with pytest.raises(ValueError, match="sees 20 positions, not 21"):
        model.decode(text(1, 21), KeyValueCache(plan, 1, 30, torch.float32, "cpu"))
    with pytest.raises(ValueError, match="room for 4 positions, not for 5"):
        model.decode(text(1, 5), KeyValueCache(plan, 1, 4, torch.float32, "cpu"))


@each_kernel
@each_shape
def test_recomputing_activations_changes_no_gradient(attention, shape):
    gradients = []
    for is_checkpointed in (False, True):
        model = busy(model_plan(**shape), attention=attention, is_checkpointed=is_checkpointed)
        sequence = text(3, 21)
        model.loss(sequence[:, :-1], sequence[:, 1:]).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-7, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch's own, as it follows an autograd function
@pytest.mark.parametrize(("attention", "shape"), [("explicit", SHAPES["values looked up"]), ("sdpa", SHAPES["grouped heads"])])
def test_the_compiler_takes_a_training_step_in_one_piece(attention, shape):
    """Where it has to leave a part out, all other parts fall to pieces, and little is gained."""
    model = busy(model_plan(**shape), attention=attention)
    inputs, targets = text(2, 20), text(2, 20, seed=1)
    losses, gradients = [], []
    for loss in (model.loss, torch.compile(model.loss, backend="aot_eager", dynamic=False, fullgraph=True)):
        model.zero_grad()
        losses.append(loss(inputs, targets))
        losses[-1].backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-3)


@each_shape
def test_loss_losses_and_logits_agree(shape):
    model, sequence = busy(model_plan(**shape)), text(3, 21)
    inputs, targets = sequence[:, :-1], sequence[:, 1:]
    expected = F.cross_entropy(model(inputs).double().flatten(0, 1), targets.flatten(), reduction="none").view(3, 20)
    torch.testing.assert_close(model.losses(inputs, targets).double(), expected, atol=1e-5, rtol=0)
    assert model.loss(inputs, targets).item() == pytest.approx(expected.mean().item(), rel=1e-6)


@each_shape
@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_every_weight_gets_a_gradient_and_is_in_the_optimizer_exactly_once(optimizer, shape):
    trainer = Trainer(model_plan(**shape), train_plan(optimizer=optimizer))
    trainer.model.load_state_dict(busy(model_plan(**shape)).state_dict())  # initial output projections are zero and let no gradient pass
    sequence = text(3, 21)
    trainer.model.loss(sequence[:, :-1], sequence[:, 1:]).backward()
    trained = dict(trainer.model.named_parameters())
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained.values())
    held = [(name, id(weight)) for each in trainer.optimizers for name, weight in each.weights.items()]
    assert sorted(name for name, _ in held) == sorted(trained)
    assert len({weight for _, weight in held}) == len(held)


@each_shape
@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_moves_within_a_few_steps(optimizer, shape, dtype):
    trainer = Trainer(model_plan(**shape), train_plan(optimizer=optimizer, dtype=dtype))
    before = {name: tensor.clone() for name, tensor in trainer.exported_weights().items()}
    for seed in range(3):
        trainer.step([text(3, 21, seed=10 * seed + part).numpy() for part in range(2)], lr_share=1.0)
    still = {name for name, tensor in trainer.exported_weights().items() if torch.equal(tensor, before[name])}
    norms = {name for name in before if name.endswith("norm.weight") and "self_attn" not in name}  # gains that are folded into the next matrix
    assert still == norms


@each_shape
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_loss_is_that_of_guessing(shape, dtype):
    trainer = Trainer(model_plan(**shape, d_model=64, vocab_size=611), train_plan(dtype=dtype))
    sequence = text(9, 21, vocab_size=611).numpy()
    assert trainer.mean_loss(sequence[:, :-1], sequence[:, 1:]) == pytest.approx(math.log(611), rel=5e-3)


def test_the_same_seed_makes_the_same_weights_and_another_seed_others():
    one, same, other = (Decoder(model_plan()) for _ in range(3))
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        initialize(model, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_random_tokens_cannot_be_predicted_better_than_by_guessing():
    trainer = Trainer(model_plan(vocab_size=31), train_plan(num_steps=40, matrix_lr=0.01))
    for step in range(40):
        trainer.step([text(3, 21, vocab_size=31, seed=100 + 2 * step + part).numpy() for part in range(2)], lr_share=1 - step / 40)
    fresh = text(500, 21, vocab_size=31, seed=99).numpy()
    loss = trainer.mean_loss(fresh[:, :-1], fresh[:, 1:])
    assert math.log(31) - 1e-3 < loss < math.log(31) + 0.5


def test_what_can_be_learned_is_learned():
    trainer = Trainer(model_plan(), train_plan(num_steps=80))
    stream = tokens(20_000).astype("int64")
    for step in range(80):
        rows = stream[(step * 6 + np.arange(6))[:, None] * 20 + np.arange(21)]
        trainer.step([rows[:3], rows[3:]], lr_share=min(1.0, 2 - step / 40))
    held_back = stream[-2001:-1].reshape(100, 20)
    assert math.log(3) - 0.05 < trainer.mean_loss(held_back[:, :-1], held_back[:, 1:]) < 1.6


def saved_model(folder):
    """A model folder as training leaves it."""
    from safetensors.torch import save_file

    from pufferfish.schema.reports import Outcome

    plan = whole_plan()
    model = busy(plan.model)
    save_file(model.state_dict(), folder / "model.safetensors")
    plan.save(folder / "plan.json")
    numbers = {"num_steps": 3, "num_tokens": 9, "final_loss": 1.0, "final_lr_share": 0.0, "train_s": 1.0, "planned_s": 1.0, "median_step_s": 0.1}
    more = {"tokens_per_s": 1.0, "peak_memory_bytes": 1, "num_resumes": 0, "warnings": [], "run_key": "key", "plan": plan.identity, "subset": "s0"}
    Outcome(**numbers, **more, weights_sha256=digest_file(folder / "model.safetensors")).save(folder / "outcome.json")
    return model


def test_a_saved_model_is_loaded_as_it_was(tmp_path):
    saved = saved_model(tmp_path)
    loaded, plan = load_model(tmp_path)
    assert plan.model == saved.plan
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training


def test_weights_that_were_changed_or_are_gone_are_refused(tmp_path):
    saved_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="changed after training"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_model(tmp_path)
