"""One evaluation reads the same on the screen, in DVC's table and in the tracking room."""

import runpy
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
from safetensors.torch import save_file
from test_export_hf import DOCUMENTS, make_subset, toy_plan, toy_weights
from toys import outcome, whole_plan

from pufferfish.base import paths
from pufferfish.base.digest import digest_file
from pufferfish.data import shards
from pufferfish.data.tokenizer import train_up_to
from pufferfish.evaluate.summary import compared, describe, tracked_metrics
from pufferfish.schema.params import Params
from pufferfish.schema.reports import Evaluation

ROOT = Path(__file__).resolve().parents[1]
BASELINES = {"uniform": 8.0, "unigram": 4.625, "lzma": 2.0625, "5-gram": 1.9375}


@pytest.fixture
def evaluation():
    return Evaluation(
        weights_sha256="w", val_bpb=1.3125, val_loss_nats=2.4, perplexity=11.0, num_tokens=180_000, num_bytes=560_000, forecast_bpb=1.05,
        baselines=BASELINES, ngram_tokens=3_000_000,
    )  # fmt: skip


def test_the_metrics_table_of_dvc_shows_every_baseline_by_its_name(evaluation, workplace):
    evaluation.save(workplace / "evaluation.json")
    dvc = Path(sys.executable).parent / "dvc"
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], check=True)
    shown = subprocess.run([dvc, "metrics", "show", "--md", "evaluation.json"], check=True, capture_output=True, text=True).stdout
    names, _, values = ([cell.strip() for cell in line.split("|")] for line in shown.splitlines()[:3])
    table = dict(zip(names, values, strict=True))
    assert {name: float(table[f"baselines.{name}"]) for name in BASELINES} == BASELINES
    assert table["ngram_tokens"] == "3000000"


def test_experiments_are_compared_by_a_few_numbers(evaluation):
    plan = whole_plan()
    numbers = compared(plan, outcome(plan, num_tokens=3_735_552, train_s=139.52), evaluation)
    assert numbers == {"val_bpb": 1.3125, "forecast_bpb": 1.05, "num_params": 10**5, "trained_tokens": 3_735_552, "train_s": 139.5}


def test_the_tracking_room_stores_every_baseline_by_its_name(evaluation):
    metrics = tracked_metrics(evaluation)
    assert {name: metrics[f"baseline/{name}"] for name in BASELINES} == BASELINES
    assert metrics["evaluation/forecast_error"] == pytest.approx(0.25)


def test_the_scores_are_told_from_the_worst_to_the_best(evaluation):
    lines = describe(evaluation).splitlines()
    assert "1.3125 bits per byte" in lines[0]
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [*BASELINES, "this model"]


def test_the_stage_hashes_each_prepared_file_once(workplace, monkeypatch):
    paths.PARAMS.write_text(
        "".join(f"{section}: {{}}\n" for section in Params.model_fields).replace("evaluate: {}", "evaluate: {prompts: [x], sample_tokens: 1}")
    )
    paths.MODEL.mkdir(parents=True)
    tokenizer = train_up_to(DOCUMENTS, 300)
    subset, plan = make_subset(paths.SUBSET, tokenizer), toy_plan(vocab_size=tokenizer.get_vocab_size())
    plan.save(paths.MODEL / "plan.json")
    tokenizer.save(str(paths.MODEL / "tokenizer.json"))
    save_file(toy_weights(plan), paths.MODEL / "model.safetensors")
    sha256 = digest_file(paths.MODEL / "model.safetensors")
    outcome(plan, subset=subset.identity, weights_sha256=sha256).save(paths.MODEL / "outcome.json")
    hashed = Counter()
    monkeypatch.setattr(shards, "digest_file", lambda path: hashed.update([path.name]) or digest_file(path))
    monkeypatch.setattr("pufferfish.base.runtime.ensure_runtime", lambda num_threads: None)
    monkeypatch.setattr("pufferfish.track.training.track_result", lambda plan, run_key: nullcontext(Mock()))
    runpy.run_path(str(ROOT / "stages" / "evaluate.py"), run_name="__main__")
    assert Evaluation.load(paths.EVALUATION).weights_sha256 == sha256
    assert set(hashed) == {"train.bin", "validation.bin", "tokenizer.json", "validation.txt", "validation_documents.json"}
    assert set(hashed.values()) == {1}
