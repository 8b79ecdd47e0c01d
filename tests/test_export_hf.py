"""An export is the model that was trained, or it is refused and the old one stays."""

import argparse
import errno
import json
import math
import os
import shutil
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from toys import model_plan, whole_plan

from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.cli import generate
from pufferfish.data.shards import write_validation_text
from pufferfish.data.tokenizer import SEPARATOR, load_tokenizer, train_up_to
from pufferfish.export import hf, verify
from pufferfish.model.transformer import Decoder
from pufferfish.schema.plan import ModelPlan, TrainPlan
from pufferfish.schema.reports import Evaluation, Outcome, Shard, Subset

DOCUMENTS = ["def déjà(vu):\n\treturn '🐡'\r\n" * 9, "a line\n" * 7 + f"and {SEPARATOR} as text", "The end, without a line end"]
SAMPLES = "# Samples\n\nSeed 0.\n\n## `'def '`\n\n```text\ndef \n## Title\n```\n"
SHAPES = {
    "qwen3, grouped heads": {"num_heads": 6, "num_kv_heads": 2, "is_tied": False, "has_qk_norm": True},
    "qwen3, tied": {"num_heads": 3, "num_kv_heads": 3, "is_tied": True, "has_qk_norm": True},
    "llama, grouped heads": {"num_heads": 4, "num_kv_heads": 2, "is_tied": False, "has_qk_norm": False},
    "llama, tied, one key head": {"num_heads": 6, "num_kv_heads": 1, "is_tied": True, "has_qk_norm": False},
    "values looked up, grouped heads": {"num_heads": 6, "num_kv_heads": 2, "is_tied": False, "has_qk_norm": True, "lookup": "value"},
    "values looked up, tied, without QK-norm": {"num_heads": 3, "num_kv_heads": 3, "is_tied": True, "has_qk_norm": False, "lookup": "value"},
    "pairs looked up, without QK-norm": {"num_heads": 4, "num_kv_heads": 2, "is_tied": False, "has_qk_norm": False, "lookup": "bigram"},
    "pairs looked up, tied": {"num_heads": 6, "num_kv_heads": 1, "is_tied": True, "has_qk_norm": True, "lookup": "bigram"},
}


def toy_plan(*, vocab_size=300, num_heads=6, num_kv_heads=2, is_tied=False, has_qk_norm=True, lookup="none"):
    model = ModelPlan(
        vocab_size=vocab_size, num_layers=2, d_model=48, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=48 // num_heads, d_ff=56, seq_len=20,
        rope_theta=700.0, norm_eps=1e-5, is_tied=is_tied, has_qk_norm=has_qk_norm, lookup=lookup,
    )  # fmt: skip
    train = TrainPlan(
        device="cpu", num_threads=1, memory_bytes=10**9, dtype="float32", attention="sdpa", is_compiled=False, is_checkpointed=False, optimizer="muon",
        matrix_lr=0.02, embedding_lr=0.1, head_lr=0.01, gain_lr=0.001, weight_decay=0.0, clip_norm=1.0, micro_batch=2, tokens_per_step=80, clock="steps",
        num_steps=3, warmup_share=0.1, cooldown_share=0.5, final_lr_share=0.0, input_noise=0.0, teacher_share=0.0, num_evals=1, eval_tokens=40,
        checkpoint_interval_s=60, seed=0, data_seed=0,
    )  # fmt: skip
    return whole_plan(model, train)


def toy_weights(plan):
    """Random values in every place, so that no two can be mixed up; the gains of blocks stay 1 as they do in training."""
    model, generator = Decoder(plan.model), torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        spread = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * spread if parameter.ndim == 1 else spread * parameter.shape[-1] ** -0.5
    return model.state_dict()


def make_subset(folder, tokenizer):
    folder.mkdir()
    ids = [token for document in DOCUMENTS for token in [*tokenizer.encode(document).ids, 0]]
    np.array(ids, np.uint16).tofile(folder / "validation.bin")
    np.array(ids, np.uint16).tofile(folder / "train.bin")
    text_sha256 = write_validation_text(folder, [document.encode() for document in DOCUMENTS])
    tokenizer.save(str(folder / "tokenizer.json"))
    num_bytes = sum(len(document.encode()) for document in DOCUMENTS)
    shards = [
        Shard(file=f"{part}.bin", sha256=digest_file(folder / f"{part}.bin"), num_tokens=len(ids), num_documents=3, num_bytes=num_bytes)
        for part in ("train", "validation")
    ]
    subset = Subset(
        corpus="c0", vocab_size=tokenizer.get_vocab_size(), separator_id=0, token_dtype="uint16", tokenizer_sha256=digest_file(folder / "tokenizer.json"),
        train=shards[0], validation=shards[1], validation_text_sha256=text_sha256, corpus_train_bytes=num_bytes, bytes_per_token=num_bytes / len(ids),
    )  # fmt: skip
    subset.save(folder / "manifest.json")
    return subset


@pytest.fixture
def house(tmp_path):
    """A function that makes model and subset folders of a shape and returns everything that `export_hf` takes."""

    def build(**shape):
        tokenizer = train_up_to(DOCUMENTS, 300)
        plan = toy_plan(vocab_size=tokenizer.get_vocab_size(), **shape)
        subset = make_subset(tmp_path / "subset", tokenizer)
        model = tmp_path / "model"
        model.mkdir()
        save_file(toy_weights(plan), model / "model.safetensors")
        shutil.copy(tmp_path / "subset" / "tokenizer.json", model)
        plan.save(model / "plan.json")
        sha256 = digest_file(model / "model.safetensors")
        outcome = Outcome(
            plan=plan.identity, subset=subset.identity, weights_sha256=sha256, run_key="key", num_steps=3, num_tokens=240, final_loss=5.0, final_lr_share=0.0,
            train_s=4.0, planned_s=4.0, median_step_s=0.1, tokens_per_s=60.0, peak_memory_bytes=10**8, num_resumes=0, warnings=[],
        )  # fmt: skip
        outcome.save(model / "outcome.json")
        evaluation = Evaluation(
            weights_sha256=sha256, val_bpb=2.1, val_loss_nats=5.0, perplexity=148.4, num_tokens=99, num_bytes=300, forecast_bpb=2.0,
            baselines={"uniform": 8.0, "lzma": 1.5}, ngram_tokens=77,
        )  # fmt: skip
        arguments = {"name": "toy-fish", "evaluation": evaluation, "samples": SAMPLES}
        return (model, tmp_path / "subset", tmp_path / "export" / "hf"), arguments

    return build


@pytest.fixture
def old_export(tmp_path):
    """What an earlier export left."""
    folder = tmp_path / "export" / "hf"
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("still here")
    return folder


def assert_untouched(folder):
    assert [path.name for path in folder.iterdir()] == ["old.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["hf"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_export_is_the_model(house, shape):
    paths, arguments = house(**shape)
    report = hf.export_hf(*paths, **arguments)
    assert report.max_logit_difference < 1e-4
    stock = "Qwen3ForCausalLM" if shape["has_qk_norm"] else "LlamaForCausalLM"
    assert report.architecture == ("PufferfishForCausalLM" if "lookup" in shape else stock)
    assert report.num_texts_compared == len(verify.HARD_TEXTS) + sum(len(document.splitlines()) for document in DOCUMENTS)
    exported, trained = load_file(paths[2] / "model.safetensors"), load_file(paths[0] / "model.safetensors")
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[key], trained[key]) for key in trained)
    assert ("lm_head.weight" in exported) != shape["is_tied"]


def test_the_export_draws_tokens_as_generate_does(house):
    from transformers import GenerationConfig

    paths, arguments = house()
    hf.export_hf(*paths, **arguments)
    ours, theirs = argparse.ArgumentParser(), GenerationConfig.from_pretrained(paths[2])
    generate.add_arguments(ours)
    assert theirs.do_sample
    assert {name: getattr(theirs, name) for name in ("temperature", "top_k", "top_p")} == {"temperature": 0.8, "top_k": 0, "top_p": 0.95}
    assert {name: ours.get_default(name) for name in ("temperature", "top_k", "top_p")} == {"temperature": 0.8, "top_k": 0, "top_p": 0.95}


def test_the_export_generates_what_the_model_generates(house):
    from transformers import AutoModelForCausalLM

    from pufferfish.model.load import load_model

    paths, arguments = house()
    hf.export_hf(*paths, **arguments)
    model, _ = load_model(paths[0])
    ids = [5, 9, 3]
    theirs = AutoModelForCausalLM.from_pretrained(paths[2]).generate(torch.tensor([ids]), max_new_tokens=9, do_sample=False, temperature=None, top_p=None)
    for _ in range(9):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert theirs[0].tolist() == ids


@pytest.mark.parametrize("shape", [shape for shape in SHAPES.values() if "lookup" in shape], ids=[name for name, shape in SHAPES.items() if "lookup" in shape])
def test_what_is_looked_up_is_looked_up_in_every_way_of_generating(house, shape):
    from transformers import AutoModelForCausalLM

    from pufferfish.model.load import load_model

    paths, arguments = house(**shape)
    hf.export_hf(*paths, **arguments)
    model, _ = load_model(paths[0])
    with verify.code_copied_in_passing():
        theirs = AutoModelForCausalLM.from_pretrained(paths[2], trust_remote_code=True)
    ids = [5, 9, 3]
    for _ in range(9):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    settings = {"max_new_tokens": 9, "do_sample": False, "temperature": None, "top_p": None}
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}):
        assert theirs.generate(torch.tensor([[5, 9, 3]]), **settings, **more)[0].tolist() == ids
    padded, mask = torch.tensor([[0, 0, 5, 9, 3], [7, 8, 5, 9, 3]]), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert theirs.generate(padded, attention_mask=mask, **settings)[0, 2:].tolist() == ids


def test_what_cannot_be_looked_up_is_refused_by_the_code_of_the_export():
    from pufferfish.export.modeling_pufferfish import PufferfishConfig, PufferfishForCausalLM

    sizes = {"vocab_size": 97, "hidden_size": 40, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 56}
    pairs = PufferfishForCausalLM(PufferfishConfig(lookup="bigram", num_hidden_layers=2, **sizes)).eval()
    with torch.no_grad():
        tokens = torch.tensor([[5, 9, 3, 7]])
        cache = pairs(tokens[:, :3]).past_key_values
        with pytest.raises(ValueError, match="give `previous_ids`"):
            pairs(tokens[:, 3:], past_key_values=cache)
        last = pairs(tokens[:, 3:], past_key_values=cache, previous_ids=tokens[:, 2:3]).logits
        torch.testing.assert_close(last[:, -1], pairs(tokens).logits[:, -1], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="give `input_ids`"):
        pairs(inputs_embeds=torch.zeros(1, 3, 40))
    with pytest.raises(ValueError, match="not `none`"):
        PufferfishForCausalLM(PufferfishConfig(lookup="none", num_hidden_layers=2, **sizes))


@pytest.mark.parametrize("lookup", ["none", "value", "bigram"])
def test_code_comes_with_the_export_only_where_it_is_needed(house, lookup):
    from transformers import AutoModelForCausalLM

    paths, arguments = house(lookup=lookup)
    hf.export_hf(*paths, **arguments)
    config, card = json.loads((paths[2] / "config.json").read_text()), (paths[2] / "README.md").read_text()
    is_needed = lookup != "none"
    assert (paths[2] / hf.CODE).exists() == ("auto_map" in config) == ("trust_remote_code=True" in card) == (hf.CODE in card) == is_needed
    assert ("| lookup |" in card) == is_needed
    if is_needed:
        with pytest.raises(ValueError, match="custom code"):
            AutoModelForCausalLM.from_pretrained(paths[2], trust_remote_code=False)


@pytest.mark.parametrize("lookup", ["value", "bigram"])
def test_code_that_looks_up_something_else_is_refused(house, old_export, monkeypatch, lookup):
    paths, arguments = house(lookup=lookup)
    right = shutil.copyfile

    def spoil(source, target):
        right(source, target)
        if target.name == hf.CODE:
            target.write_text(target.read_text().replace("27191", "27193").replace("num_hidden_layers - 1", "num_hidden_layers - 2"))

    monkeypatch.setattr(hf.shutil, "copyfile", spoil)
    with pytest.raises(verify.ExportMismatch, match="logits differ"):
        hf.export_hf(*paths, **arguments)
    assert_untouched(old_export)


def test_windows_are_no_longer_than_memory_and_time_bear(house, monkeypatch):
    paths, arguments = house()
    seen, forward = [], Decoder.forward
    monkeypatch.setattr(verify, "MOST_LOGITS", 300 * 5)
    monkeypatch.setattr(Decoder, "forward", lambda model, tokens, *rest: seen.append(tokens.shape) or forward(model, tokens, *rest))
    assert hf.export_hf(*paths, **arguments).max_logit_difference < 1e-4
    assert seen == [(1, 5)] * verify.NUM_WINDOWS


class Said(torch.nn.Module):
    """A model that says the same logits whatever it reads."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.plan = logits, model_plan()

    def forward(self, tokens=None, input_ids=None):
        return self.logits if input_ids is None else SimpleNamespace(logits=self.logits)


@pytest.mark.parametrize(
    ("largest", "difference", "is_right"), [(30.0, 2e-3, True), (30.0, 4e-3, False), (0.1, 9e-5, True), (0.1, 2e-4, False), (math.inf, math.inf, False)]
)
def test_logits_may_differ_by_rounding_which_grows_with_them(largest, difference, is_right):
    ours, theirs = torch.full((1, 20, 97), 0.05), torch.full((1, 20, 97), 0.05)
    ours[0, 3, 5], theirs[0, 2, 7] = -largest, 0.05 + difference
    theirs[0, 3, 5] = -largest
    allowed = pytest.raises(verify.ExportMismatch, match="logits differ") if not is_right else nullcontext()
    with allowed:
        assert verify.compare_logits(Said(theirs), Said(ours), np.arange(60)) == pytest.approx(difference, rel=1e-2)


def test_a_second_export_replaces_the_first(house, old_export):
    paths, arguments = house()
    hf.export_hf(*paths, **arguments)
    files = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in old_export.iterdir()} == files
    assert [path.name for path in old_export.parent.iterdir()] == ["hf"]


@pytest.mark.parametrize("key", ["model.embed_tokens.weight", "model.layers.1.self_attn.k_norm.weight", "model.layers.0.mlp.down_proj.weight"])
def test_a_corrupted_weight_is_refused(house, old_export, monkeypatch, key):
    paths, arguments = house()

    def corrupt(tensors, *more, **settings):
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        tensors[key] += 0.05
        save_file(tensors, *more, **settings)

    monkeypatch.setattr(hf, "save_file", corrupt)
    with pytest.raises(verify.ExportMismatch, match="logits differ"):
        hf.export_hf(*paths, **arguments)
    assert_untouched(old_export)


def test_a_missing_weight_is_refused(house, old_export, monkeypatch):
    paths, arguments = house()
    monkeypatch.setattr(hf, "save_file", lambda tensors, *more, **settings: save_file(dict(list(tensors.items())[:-1]), *more, **settings))
    with pytest.raises(verify.ExportMismatch, match="missing_keys"):
        hf.export_hf(*paths, **arguments)
    assert_untouched(old_export)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "logits differ"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"model_type": "fish"}, "cannot load"),
    ],
)
def test_a_wrong_configuration_is_refused(house, old_export, monkeypatch, change, words):
    paths, arguments = house()
    right = hf.model_config
    monkeypatch.setattr(hf, "model_config", lambda plan: right(plan) | change)
    with pytest.raises(verify.ExportMismatch, match=words):
        hf.export_hf(*paths, **arguments)
    assert_untouched(old_export)


def test_another_tokenizer_is_refused(house, old_export, monkeypatch):
    paths, arguments = house()
    content = json.loads((paths[0] / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True
    right = shutil.copyfile
    monkeypatch.setattr(hf.shutil, "copyfile", lambda source, target: right(source, target) and target.write_text(json.dumps(content)))
    with pytest.raises(verify.ExportMismatch, match="another tokenization"):
        hf.export_hf(*paths, **arguments)
    assert_untouched(old_export)


def raising(error):
    def refuse(*_, **__):
        raise error

    return refuse


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "room"), (errno.EDQUOT, "room"), (errno.EACCES, "permissions"), (errno.EPERM, "permissions"), (errno.EROFS, "folder")]
)
@pytest.mark.parametrize("call", ["write_json", "replace_folder"])
def test_a_disk_that_refuses_is_the_users_to_mend(house, old_export, monkeypatch, call, number, words):
    paths, arguments = house()
    monkeypatch.setattr(hf.atomic, call, raising(OSError(number, "the disk says no", "the/file")))
    with pytest.raises(UserError, match="cannot be written") as error:
        hf.export_hf(*paths, **arguments)
    assert error.value.saw == f"{os.strerror(number)}: the/file"
    assert words in error.value.fix
    assert_untouched(old_export)


def test_a_disk_that_is_full_when_the_weights_are_written_is_the_users_to_mend(house, old_export, monkeypatch):
    paths, arguments = house()
    monkeypatch.setattr(hf, "save_file", raising(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")))
    with pytest.raises(UserError, match="make room") as error:
        hf.export_hf(*paths, **arguments)
    assert error.value.saw == f"{os.strerror(errno.ENOSPC)}: {old_export.absolute()}"
    assert_untouched(old_export)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "the cable is loose"), SafetensorError("Error while serializing: I/O error: loose (os error 5)")])
def test_a_broken_disk_is_not_told_as_a_full_one(house, old_export, monkeypatch, error):
    paths, arguments = house()
    monkeypatch.setattr(hf, "save_file", raising(error))
    with pytest.raises(type(error)) as raised:
        hf.export_hf(*paths, **arguments)
    assert raised.value is error
    assert_untouched(old_export)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "locked away"), SafetensorError("invalid header"), OSError(errno.ENOSPC, "no room")])
@pytest.mark.parametrize("call", ["verify_hf", "read_validation_text"])
def test_what_cannot_be_read_again_is_not_told_as_a_disk_that_refuses(house, old_export, monkeypatch, call, error):
    paths, arguments = house()
    monkeypatch.setattr(hf, call, raising(error))
    with pytest.raises(type(error)) as raised:
        hf.export_hf(*paths, **arguments)
    assert raised.value is error
    assert_untouched(old_export)


def test_what_a_killed_export_left_is_removed(house, old_export):
    paths, arguments = house()
    (old_export.parent / ".hf.99999999-abc.tmp").mkdir()
    hf.export_hf(*paths, **arguments)
    assert [path.name for path in old_export.parent.iterdir()] == ["hf"]


def test_an_evaluation_of_other_weights_is_refused(house):
    paths, arguments = house()
    arguments["evaluation"] = arguments["evaluation"].model_copy(update={"weights_sha256": "0" * 64})
    with pytest.raises(UserError, match="of another model"):
        hf.export_hf(*paths, **arguments)


def test_the_card_says_what_was_planned_found_and_beaten(house):
    paths, arguments = house()
    hf.export_hf(*paths, **arguments)
    card = (paths[2] / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    for words in (
        "# toy-fish",
        "**this model** | 2.1000",
        "lzma | 1.5000",
        "counted 77 tokens",
        "`c0`",
        "53.0 s",
        "AutoModelForCausalLM",
        "## Samples",
        "### `'def '`",
        "```text\ndef \n## Title\n```",  # as it was written
    ):
        assert words in card


def test_lines_are_spread_over_all_documents():
    documents = [f"document {number}\nsecond\n" for number in range(3000)]
    lines = verify.spread_lines(documents)
    assert len(lines) == verify.NUM_LINES
    assert lines[0] == "document 0\n"
    assert lines[-1] == "second\n"
    assert verify.spread_lines(["one\n", "two"]) == ["one\n", "two"]
    assert verify.spread_lines([]) == []


@pytest.mark.parametrize("words", ["no end of words {} ", "長い文章{}。", "🐡{}🐡 ", "{}\x01\t"])
def test_of_text_without_line_ends_parts_from_everywhere_are_compared(words):
    text = "".join(words.format(number) for number in range(60_000))
    documents = ["a line\r\n", text[: len(text) // 3], text[len(text) // 3 :]]
    lines = verify.spread_lines(documents)
    assert len(lines) == verify.NUM_LINES
    assert 150_000 < sum(len(line.encode()) for line in lines) < 210_000
    assert lines[0] == documents[0]
    assert documents[2].endswith(lines[-1])
    places = [text.index(line) for line in lines[1:]]
    assert max(after - before for before, after in pairwise(places)) < 2 * len(text) / verify.NUM_LINES


def test_long_lines_are_cut_into_parts_that_lose_nothing():
    long = "🐡 and more words of one line " * 100 + "\n"
    assert "".join(verify.spread_lines(["short\n", long, "é" * 333])) == "short\n" + long + "é" * 333


def test_the_separator_in_a_text_is_text(house):
    paths, _ = house()
    assert 0 not in load_tokenizer(paths[0] / "tokenizer.json").encode(SEPARATOR).ids
