"""Every token but the first is predicted once, and the sum is that of a plain loop."""

import math

import numpy as np
import pytest
import torch

from pufferfish.evaluate import samples
from pufferfish.evaluate.samples import beginnings, fenced, write_samples
from pufferfish.evaluate.validation import Validation, evaluate_validation
from pufferfish.model.transformer import Decoder
from pufferfish.schema.params import EvaluateParams
from pufferfish.schema.plan import ModelPlan

VOCAB_SIZE, SEQ_LEN = 29, 10


def toy_model():
    plan = ModelPlan(
        vocab_size=VOCAB_SIZE,
        num_layers=2,
        d_model=24,
        num_heads=3,
        num_kv_heads=1,
        head_dim=8,
        d_ff=20,
        seq_len=SEQ_LEN,
        rope_theta=500.0,
        norm_eps=1e-5,
        is_tied=False,
        has_qk_norm=False,
        lookup="none",
    )
    model = Decoder(plan).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    return model


def toy_tokens(length):
    return np.random.default_rng(length).integers(0, VOCAB_SIZE, length).astype(np.uint16)


def slow_nats(model, tokens):
    """One token after the other, in windows of `SEQ_LEN`."""
    total = 0.0
    for place in range(1, len(tokens)):
        start = (place - 1) // SEQ_LEN * SEQ_LEN
        with torch.no_grad():
            logits = model(torch.tensor([tokens[start:place].tolist()]))[0, -1].double()
        total -= float(torch.log_softmax(logits, dim=0)[int(tokens[place])])
    return total


@pytest.mark.parametrize("length", [2, 10, 11, 12, 57, 61])
@pytest.mark.parametrize("batch_tokens", [1, 25, 4096])
def test_every_token_but_the_first_is_predicted_once(length, batch_tokens):
    model, tokens = toy_model(), toy_tokens(length)
    found = evaluate_validation(model, tokens, num_bytes=3 * length, batch_tokens=batch_tokens)
    assert found.num_tokens == length - 1
    assert found.total_nats == pytest.approx(slow_nats(model, tokens), rel=1e-5)
    assert found.bpb == pytest.approx(found.total_nats / math.log(2) / (3 * length))
    assert found.perplexity == pytest.approx(math.exp(found.total_nats / (length - 1)))


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary():
    model = toy_model()
    model.lm_head.weight.data.zero_()
    found = evaluate_validation(model, toy_tokens(300), num_bytes=299)
    assert found.bpb == pytest.approx(math.log2(VOCAB_SIZE), rel=1e-6)


@pytest.mark.parametrize("nats", [709.0, 709.79, 1e6])
def test_a_loss_whose_exponential_is_no_number_has_a_perplexity_all_the_same(nats):
    found = Validation(total_nats=3 * nats, num_tokens=3, num_bytes=5)
    assert found.perplexity == pytest.approx(math.exp(min(nats, 709.782)), rel=1e-3)


def test_bfloat16_gives_nearly_the_same():
    model, tokens = toy_model(), toy_tokens(400)
    exact = evaluate_validation(model, tokens, num_bytes=400)
    rounded = evaluate_validation(model.to(torch.bfloat16), tokens, num_bytes=400)
    assert rounded.bpb == pytest.approx(exact.bpb, rel=0.01)
    assert rounded.bpb != exact.bpb


@pytest.mark.parametrize("text", ["plain", "```python\nx\n```", "a ```` b", "\x1b[31m\x00 bell\x07\r\nnext"])
def test_samples_stay_inside_their_fence(text):
    first, *body, last = fenced(text).split("\n")
    assert first == last + "text"
    assert set(last) == {"`"}
    assert last not in "\n".join(body)
    assert all(character.isprintable() or character == "\n" for character in "\n".join(body))


def test_blanks_and_joiners_of_other_scripts_stay_in_samples():
    text = "全角\u3000空白 10\u00a0000 \u2009می\u200cخواهم क्\u200dष 👩\u200d👩"
    assert text in fenced(text)


def test_what_ends_lines_or_turns_or_hides_text_is_shown_as_such_in_samples():
    assert "a" + "\ufffd" * 9 + "b\tc\nd" in fenced("a\u2028\u2029\u200b\u202e\u2066\ufeff\x85\x0c\rb\tc\r\nd")


def test_samples_begin_like_documents_from_everywhere():
    documents = [f"Chapter {number} tells of a very long journey" for number in range(30)]
    assert beginnings(documents) == ["Chapter 0 tells of a", "Chapter 10 tells of a", "Chapter 20 tells of a"]


@pytest.mark.parametrize(
    ("document", "beginning"),
    [
        ("\n  \nshort\nline", "short"),
        ("#\n# ------\n# What it does", "# What it does"),  # a line of signs says nothing
        ("    return everything_that_was_asked_for", "    return"),  # blanks at the start belong to it
        (" " * 30 + "THE TRAGEDY OF HAMLET, PRINCE OF DENMARK", "THE TRAGEDY OF HAMLET,"),  # in the middle of its line
        ("one-word-that-never-ends-anywhere", "one-word-that-never-ends"),
        ("exactly twenty-four here and more", "exactly twenty-four here"),
        ("\u5434" * 40, "\u5434" * 24),  # no blanks between words
        ("e\u0301" * 12 + "\u0323" + "e" * 9, "e\u0301" * 12 + "\u0323"),  # marks stay with their letter
    ],
)
def test_a_beginning_is_whole_words_of_the_first_line_with_any(document, beginning):
    assert beginnings([document]) == [beginning]


def test_beginnings_differ_and_documents_without_words_give_none():
    assert beginnings(["the same", "\n\n", "the same", "another"]) == ["the same", "another"]
    assert beginnings(["", " \n"]) == beginnings([]) == [""]


class Slow:
    """An engine that takes a second for each piece."""

    def __init__(self, monkeypatch):
        self.now_s = 100.0
        monkeypatch.setattr(samples.time, "perf_counter", lambda: self.now_s)

    def stream(self, prompt, *, max_tokens, **wishes):
        for number in range(max_tokens):
            self.now_s += 1.0
            yield f" {number}"


def test_samples_that_would_take_too_long_are_cut_off_each_at_its_part_of_the_time(monkeypatch):
    params, prompts = EvaluateParams(sample_tokens=20), ["a", "b", "c"]
    text = write_samples(Slow(monkeypatch), prompts, params, limit_s=12.0)
    assert text.count(samples.CUT) == 3
    assert ["a 0 1 2 3 4\n" in text, "b 0 1 2 3\n" in text, "c 0 1 2 3\n" in text] == [True] * 3
    whole = write_samples(Slow(monkeypatch), prompts, params)
    assert samples.CUT not in whole
    assert whole.count(" 19\n") == 3
