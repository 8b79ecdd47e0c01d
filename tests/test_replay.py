"""`pufferfish replay` trains once more and says whether the weights are the same; where they are not, why that may be and what it is worth."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from machines import MACHINES
from test_train_loop import write_subset
from toys import model_plan, train_plan, whole_plan

from pufferfish.base import paths
from pufferfish.base.clock import now_s
from pufferfish.base.errors import UserError
from pufferfish.base.events import CheckpointSaved, EvalDone, Finished, StepDone
from pufferfish.base.processor import cpu_name
from pufferfish.cli import main as cli
from pufferfish.data.corpus import inspect_corpus
from pufferfish.data.prepare import prepare_subset
from pufferfish.data.shards import load_subset, open_tokens
from pufferfish.evaluate.validation import as_trained, evaluate_validation
from pufferfish.experiments import replay
from pufferfish.experiments.recording import open_recording
from pufferfish.experiments.replay import Comparison, Difference, Explanation, told
from pufferfish.model.load import load_model
from pufferfish.schema.params import DataParams
from pufferfish.schema.reports import Outcome
from pufferfish.track import store, worker
from pufferfish.train.finish import save_model
from pufferfish.train.realised import load_realised
from pufferfish.train.start import start_training

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 24
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow and SQLAlchemy, not ours


def against_the_clock(plan):
    """With so much time that a busy machine makes as many steps as any other: the text ends the training."""
    return plan.model_copy(update={"budget": plan.budget.model_copy(update={"total_s": 600.0, "unused_s": 500.0})})


def train(folder, **changes):
    """What the stages leave in the artifacts of a short training against the clock; the working folder must be `folder`."""
    subset = write_subset(paths.SUBSET)
    machine = MACHINES["laptop"]
    machine.save(paths.HARDWARE)
    plan = against_the_clock(whole_plan(train=train_plan(clock="deadline", num_steps=NUM_STEPS, dtype="bfloat16", **changes)))
    plan = plan.model_copy(update={"hardware": machine.identity})
    training = start_training(plan, subset, folder / "work", started_s=now_s(), should_stop=lambda: False)
    list(training.run())
    save_model(training, plan, subset, tokenizer=paths.SUBSET / "tokenizer.json", run_key="k", target=paths.MODEL)
    return training


def edit_schedule(edit):
    """Change its lines, each parsed; the first is the header."""
    path = paths.MODEL / "schedule.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_replay_makes_the_same_weights_and_leaves_nothing_behind(workplace, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(workplace / "temporary"))
    (workplace / "temporary").mkdir()
    first = train(workplace, checkpoint_interval_s=0.0)
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    events = []
    comparison = replay.replay(open_recording(paths.ARTIFACTS), events.append)
    assert comparison.explanation is None
    assert comparison.num_steps == first.step >= NUM_STEPS - 1
    assert f"the same weights, bit for bit ({first.step:,} steps" in told(comparison)
    assert len([event for event in events if isinstance(event, StepDone)]) == first.step
    assert not any(isinstance(event, EvalDone | CheckpointSaved | Finished) for event in events), "nothing but steps costs time"
    assert max(event.remaining_s for event in events[2:]) > 0
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before


def test_other_weights_are_explained_and_weighed(workplace):
    first = train(workplace)

    def edit(lines):
        lines[0]["environment"] |= {"torch": "0.4.1", "code": "abc", "processor": "Example 7763"}
        lines[3]["u"] = (0.9).hex()

    edit_schedule(edit)
    comparison = replay.replay(open_recording(paths.ARTIFACTS), lambda event: None)
    explanation = comparison.explanation
    differences = {each.name: each for each in explanation.differences}
    assert differences["torch"] == Difference("torch", "0.4.1", torch.__version__)
    assert differences["code"].here == first.environment["code"]
    assert differences["processor"] == Difference("processor", "Example 7763", first.environment["processor"]), "where it trained, not what was planned for"
    assert explanation.is_machine_known
    assert not differences.keys() & {"numpy", "system", "instructions"}
    assert 0 < abs(explanation.replayed_bpb - explanation.recorded_bpb) < 0.2 * explanation.recorded_bpb
    assert explanation.recorded_bpb == pytest.approx(bits_per_byte_of_the_artifacts(), rel=1e-9)
    said = told(comparison)
    assert "recorded 0.4.1" in said
    assert f"{explanation.replayed_bpb:.4f} bits per byte, recorded {explanation.recorded_bpb:.4f}" in said


def bits_per_byte_of_the_artifacts():
    """As the stage evaluate finds them."""
    model, plan = load_model(paths.MODEL)
    subset = load_subset(paths.SUBSET)
    tokens = open_tokens(paths.SUBSET, subset.validation, subset.token_dtype)
    return evaluate_validation(as_trained(model, plan.train), tokens, num_bytes=subset.validation.num_bytes).bpb


def explained(recorded_bpb, replayed_bpb, *, differences=(), is_machine_known=True):
    return told(Comparison("a" * 64, "b" * 64, 1234, 65.0, Explanation(list(differences), is_machine_known, recorded_bpb, replayed_bpb)))


def test_a_change_is_weighed_against_what_another_seed_changes():
    assert "+0.0050, +0.33%" in explained(1.5, 1.505)
    assert "less than another seed may change: up to 0.8%" in explained(1.5, 1.505)
    assert "more than another seed" in explained(1.5, 1.47)


def test_it_is_said_where_nothing_differs_or_nothing_is_known():
    assert "nothing that was recorded about the environment differs" in explained(1.5, 1.5)
    assert "1,234 steps in 1m 05s" in explained(1.5, 1.5)
    assert "the processor was not compared" in explained(1.5, 1.5, is_machine_known=False)
    assert "the processor was not compared" not in explained(1.5, 1.5)


def on_another_machine(lines):
    """A schedule that was realised there."""
    lines[0]["environment"] |= {"processor": "Example 7763", "instructions": "avx2 sve"}
    lines[3]["u"] = (0.9).hex()


def of_an_older_version(lines):
    """A schedule without the facts of its machine."""
    for name in ("system", "processor", "instructions"):
        del lines[0]["environment"][name]
    lines[3]["u"] = (0.9).hex()


def explanation_here():
    return replay.replay(open_recording(paths.ARTIFACTS), lambda event: None).explanation


def test_the_processor_that_trained_is_compared_without_the_hardware_of_its_plan(workplace):
    first = train(workplace)
    paths.HARDWARE.unlink()
    edit_schedule(on_another_machine)
    explanation = explanation_here()
    assert explanation.is_machine_known
    here = first.environment
    expected = [Difference("processor", "Example 7763", here["processor"]), Difference("instructions", "avx2 sve", here["instructions"])]
    assert explanation.differences == expected


def test_a_training_that_did_not_record_its_processor_is_repeated_too_and_compared_where_its_plan_knows_it(workplace):
    train(workplace)
    edit_schedule(of_an_older_version)
    explanation = explanation_here()
    assert explanation.is_machine_known
    assert {each.name: each.recorded for each in explanation.differences}["processor"] == "2 cores without bfloat16"
    paths.HARDWARE.unlink()
    explanation = explanation_here()
    assert not explanation.is_machine_known
    assert explanation.differences == []


def test_the_hardware_of_another_training_explains_nothing(workplace):
    train(workplace)
    MACHINES["server"].save(paths.HARDWARE)
    assert open_recording(paths.ARTIFACTS).machine is None
    paths.HARDWARE.unlink()
    assert open_recording(paths.ARTIFACTS).machine is None


def test_the_schedule_is_read_back_with_every_bit(workplace):
    training = train(workplace)
    realised = open_recording(paths.ARTIFACTS).realised
    assert realised == load_realised(paths.MODEL / "schedule.jsonl")
    assert realised.u == training.record.u
    assert realised.micro_batch == [3] * training.step
    assert realised.environment["threads"] == "1"
    assert realised.environment["processor"] == cpu_name()


# --- what cannot be repeated


def refused(capsys, *arguments):
    """Three lines and status 2."""
    assert cli.main(["replay", *arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3, said
    return said


def test_without_artifacts_it_says_how_to_get_some(workplace, capsys):
    said = refused(capsys)
    assert "there is no training to repeat" in said
    assert str(workplace / "artifacts" / "model") in said
    assert "elsewhere" in refused(capsys, "elsewhere")


def test_a_model_without_its_schedule_is_refused(workplace, capsys):
    train(workplace)
    (paths.MODEL / "schedule.jsonl").unlink()
    assert "left no schedule to repeat" in refused(capsys)


def older(lines):
    lines[0]["schema_version"] = 1


def shortened(lines):
    lines.pop()


def of_another_training(lines):
    lines.pop()
    lines[0]["num_steps"] -= 1


@pytest.mark.parametrize(("edit", "said"), [(older, "written by another version"), (shortened, "is not whole"), (of_another_training, "not that of the model")])
def test_a_schedule_that_cannot_be_trusted_is_refused(workplace, capsys, edit, said):
    train(workplace)
    edit_schedule(edit)
    assert said in refused(capsys)


@pytest.mark.parametrize("content", ["", "[]\n", "no JSON", '{"num_steps": 1}\n', '{"schema_version": 2, "num_steps": 0}\n{}'])
def test_a_file_that_is_no_schedule_is_refused(workplace, content):
    (workplace / "schedule.jsonl").write_text(content)
    with pytest.raises(UserError, match="is no schedule"):
        load_realised(workplace / "schedule.jsonl")


def test_a_text_that_was_prepared_anew_is_refused(workplace, capsys):
    train(workplace)
    outcome = Outcome.load(paths.MODEL / "outcome.json").model_copy(update={"subset": "0123456789abcdef"})
    outcome.save(paths.MODEL / "outcome.json")
    said = refused(capsys)
    assert "the prepared text changed since this training" in said
    assert "trained on 0123456789abcdef" in said


def test_a_text_that_was_edited_is_refused(workplace, capsys):
    train(workplace)
    ids = np.fromfile(paths.SUBSET / "train.bin", np.uint16)
    ids[7] += 1
    ids.tofile(paths.SUBSET / "train.bin")
    assert "subset was changed" in refused(capsys)


def test_weights_that_were_changed_are_found_before_the_long_part(workplace):
    train(workplace)
    (paths.MODEL / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="changed after training"):
        replay.replay(open_recording(paths.ARTIFACTS), lambda event: pytest.fail("it trained"))


def test_a_training_of_another_device_is_refused(workplace, monkeypatch):
    train(workplace)
    recording = open_recording(paths.ARTIFACTS)
    plan = recording.plan.model_copy(update={"train": recording.plan.train.model_copy(update={"device": "cuda"})})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device of this training is not here"):
        replay.replay(dataclasses.replace(recording, plan=plan), lambda event: None)


# --- as a command


def test_the_command_trains_shows_the_time_left_and_says_the_result(workplace):
    train(workplace)
    done = call(workplace)
    assert done.returncode == 0, done.stderr
    assert " left\n" in done.stdout
    assert "replay: the same weights, bit for bit" in done.stdout.splitlines()[-1]
    edit_schedule(lambda lines: lines[3].update(u=(0.9).hex()))
    done = call(workplace)
    assert done.returncode == 1, done.stderr
    assert "other weights" in done.stdout


def call(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))} | {"PYTHONPATH": str(ROOT)}
    code = [sys.executable, "-c", "import sys; from pufferfish.cli.main import main; sys.exit(main(['replay', *sys.argv[1:]]))", *arguments]
    return subprocess.run(code, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_mistakes_are_told_without_torch(workplace):
    code = "import sys\nfrom pufferfish.cli.main import main\nprint(main(['replay', 'nowhere']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


# --- a run of MLflow


@pytest.fixture
def prepared(workplace):
    """A training on a text that can be prepared again, logged as a run; returns its id."""
    words = ["sea", "puff", "fin", "coral", "tide", "reef"]
    Path("text").mkdir()
    for number in range(60):
        Path("text", f"{number}.txt").write_text(f"{number} " + " ".join(words[(number * k) % 6] for k in range(1, 80)) + "\n", "utf-8")
    corpus = inspect_corpus(DataParams(source="text", path="text"))
    changes = {"path": corpus.path, "corpus": corpus.content, "vocab_size": 270, "tokenizer_bytes": 9000, "train_bytes": 10**6, "max_validation_bytes": 10**4}
    plan = against_the_clock(whole_plan(model_plan(vocab_size=270), train_plan(clock="deadline", num_steps=NUM_STEPS)))
    plan = plan.model_copy(update={"data": plan.data.model_copy(update=changes)})
    subset = prepare_subset(plan.data, paths.SUBSET, report=lambda line: None)
    training = start_training(plan, subset, workplace / "work", started_s=now_s(), should_stop=lambda: False)
    list(training.run())
    save_model(training, plan, subset, tokenizer=paths.SUBSET / "tokenizer.json", run_key="k", target=paths.MODEL)
    store.create_store()
    client = worker.open_client()
    run_id = client.create_run(client.get_experiment_by_name("pufferfish").experiment_id).info.run_id
    client.log_artifacts(run_id, str(paths.MODEL), "model/model")
    shutil.rmtree(paths.MODEL)
    return run_id


def test_the_training_of_a_run_is_repeated_with_its_text_prepared_again(prepared, workplace):
    done = call(workplace, prepared)
    assert "replay: the same weights, bit for bit" in done.stdout.splitlines()[-1], done.stderr
    assert "vocabulary: 270" not in done.stdout, "the text that is at hand is taken"
    shutil.rmtree(paths.SUBSET)
    done = call(workplace, prepared)
    assert "vocabulary: 270" in done.stdout
    assert "replay: the same weights, bit for bit" in done.stdout.splitlines()[-1], done.stderr
    assert not paths.MODEL.exists()
    assert not paths.SUBSET.exists()


def test_a_run_that_is_not_there_and_a_text_that_changed_are_told(prepared, workplace):
    done = call(workplace, "0" * 32)
    assert done.returncode == 2
    assert "the model of run 00000000000000000000000000000000 cannot be fetched" in done.stderr
    assert len(done.stderr.splitlines()) == 3
    shutil.rmtree(paths.SUBSET)
    Path("text", "7.txt").write_text("another text\n", "utf-8")
    done = call(workplace, prepared)
    assert done.returncode == 2
    assert "the text changed since the plan was made" in done.stderr
    assert "bring the text of that training back" in done.stderr
    assert len(done.stderr.splitlines()) == 3
    (workplace / "mlruns" / "mlflow.db").unlink()
    done = call(workplace, prepared)
    assert "there are no runs yet" in done.stderr
    assert not (workplace / "mlruns" / "mlflow.db").exists()
