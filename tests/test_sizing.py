"""`pufferfish size`: parameters, arithmetic, memory and days of any model, from prices alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from machines import MACHINES, price_of
from toys import model_plan

from pufferfish.base import paths
from pufferfish.cli import main as cli
from pufferfish.cli import size as command
from pufferfish.model.transformer import Decoder
from pufferfish.plan.sizing import size_up
from pufferfish.plan.speed import Machine, step_seconds
from pufferfish.probe.fingerprint import Identity
from pufferfish.probe.probe import keep_speeds
from pufferfish.probe.sheets import REACHED, SHEETS, machine_of
from pufferfish.ui.sizing import sizing_text

ROOT = Path(__file__).resolve().parents[1]
OTHER_MACHINE = ROOT / "tests" / "files" / "gpu_of_4_GB.json"
SHAPE = ["--layers", "3", "--width", "96", "--vocab", "777", "--context", "64"]


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_parts_of_the_parameters_are_those_of_the_built_model(is_tied):
    model = model_plan(is_tied=is_tied)
    sizing = size_up(model, MACHINES["server"], price_of)
    built = Decoder(model).to("meta")
    counts = {name: parameter.numel() for name, parameter in built.named_parameters()}
    assert sizing.num_params == sum(counts.values()) == sizing.embedding_params + sizing.block_params + sizing.head_params
    assert sizing.block_params == sum(count for name, count in counts.items() if ".layers." in name)
    assert (sizing.head_params == 0) == is_tied


@pytest.mark.parametrize("machine", MACHINES)
def test_days_follow_from_the_pace_and_the_tokens(machine):
    model = model_plan(vocab_size=4096, d_model=256, head_dim=64, num_heads=4, num_kv_heads=4, d_ff=672, seq_len=256)
    hardware = MACHINES[machine]
    sizing = size_up(model, hardware, price_of, tokens=10**9)
    step_s = step_seconds(Machine(hardware), price_of(model, sizing.train.attention), model, sizing.train)
    assert sizing.train_s == pytest.approx(10**9 / sizing.train.tokens_per_step * step_s)
    assert sizing.forward_flops_per_token == pytest.approx(sizing.train_flops_per_token / 3)
    assert size_up(model, hardware, price_of).tokens == 20 * sizing.num_params
    assert sizing.fits
    assert sum(sizing.training_bytes.values()) <= sizing.usable_bytes


def test_writing_holds_the_weights_and_one_context():
    model = model_plan()
    sizing = size_up(model, MACHINES["server"], price_of)
    assert sizing.inference_bytes["weights"] == 2 * sizing.num_params
    assert sizing.inference_bytes["cache"] == 2 * 2 * 3 * 2 * 8 * 20  # bytes, keys and values, layers, heads, width, context
    assert size_up(model, MACHINES["laptop"], price_of).inference_bytes["weights"] == 4 * sizing.num_params


def test_a_model_too_large_for_the_machine_is_sized_all_the_same_and_said_not_to_fit():
    model = model_plan(vocab_size=50_257, num_layers=32, d_model=2048, num_heads=32, num_kv_heads=32, head_dim=64, d_ff=5472, seq_len=1024)
    sizing = size_up(model, MACHINES["gpu of 4 GB"], price_of)
    assert not sizing.fits
    assert (sizing.train.micro_batch, sizing.train.is_checkpointed) == (1, True)
    assert sum(sizing.training_bytes.values()) > sizing.usable_bytes
    assert "does not fit" in sizing_text(sizing, MACHINES["gpu of 4 GB"])
    assert size_up(model, MACHINES["H200"], price_of).fits


@pytest.mark.parametrize("machine", MACHINES)
def test_the_text_is_complete_and_not_too_wide(machine):
    text = sizing_text(size_up(model_plan(), MACHINES[machine], price_of), MACHINES[machine])
    assert max(map(len, text.splitlines())) <= 110
    for words in ("parameters", "FLOP a token", "tokens/s", "days", "memory to train", "gradients", "memory to write", "keys and values"):
        assert words in text, words


# --- the command


def run(capsys, *options):
    status = cli.main(["size", *SHAPE, *options])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_what_is_left_open_is_chosen_as_the_plan_does(workplace, capsys):
    _, out, _ = run(capsys, "--machine", str(OTHER_MACHINE), "--json")
    sizing = json.loads(out)
    assert (sizing["model"]["num_heads"], sizing["model"]["head_dim"]) == (2, 64)
    assert (sizing["model"]["vocab_size"], sizing["model"]["seq_len"], sizing["model"]["is_tied"]) == (777, 64, False)
    assert sizing["tokens"] == 20 * sizing["num_params"]
    _, out, _ = run(capsys, "--machine", str(OTHER_MACHINE), "--json", "--heads", "6", "--kv-heads", "2", "--ff", "100", "--tied", "--tokens", "7e9")
    sizing = json.loads(out)
    assert [sizing["model"][name] for name in ("num_heads", "num_kv_heads", "d_ff", "is_tied")] == [6, 2, 100, True]
    assert sizing["tokens"] == 7 * 10**9


def test_the_training_is_sized_as_wished(workplace, capsys):
    def training(*options):
        return json.loads(run(capsys, "--machine", str(OTHER_MACHINE), "--json", *options)[1])

    usual = training()
    wished = training("--batch", "640", "--micro-batch", "2", "--optimizer", "adamw", "--dtype", "float32")
    names = ("tokens_per_step", "micro_batch", "optimizer", "dtype", "is_compiled")
    assert [wished["train"][name] for name in names] == [640, 2, "adamw", "float32", False]
    assert usual["train"]["optimizer"] == "muon"
    assert wished["training_bytes"]["activations"] < usual["training_bytes"]["activations"]
    assert wished["tokens_per_s"] != usual["tokens_per_s"]


def test_a_micro_batch_that_does_not_fit_is_sized_all_the_same(workplace, capsys):
    large = ["--context", "8192", "--width", "2048", "--layers", "24", "--batch", str(64 * 8192), "--micro-batch", "64"]
    _, out, _ = run(capsys, "--machine", str(OTHER_MACHINE), "--json", *large)
    sizing = json.loads(out)
    assert (sizing["train"]["micro_batch"], sizing["fits"]) == (64, False)


def test_a_type_that_the_machine_does_not_run_is_refused(workplace, capsys):
    MACHINES["laptop"].save(paths.HARDWARE)
    status, _, err = run(capsys, "--dtype", "bfloat16")
    assert (status, len(err.splitlines())) == (2, 3)
    assert "--dtype bfloat16; there are float32" in err


@pytest.mark.parametrize(
    ("options", "saw", "fix"),
    [
        (["--heads", "5"], "--heads 5", "is 4"),
        (["--heads", "6", "--kv-heads", "4"], "--kv-heads 4", "is 3"),
        (["--layers", "0"], "--layers 0", "at least 1"),
        (["--context", "4"], "--context 4", "at least 8"),
        (["--vocab", "0"], "--vocab 0", "tokens"),
        (["--tokens", "-3"], "--tokens -3", "7e9"),
        (["--tokens", "nan"], "--tokens nan", "7e9"),
        (["--optimizer", "moun"], "--optimizer moun", "muon"),
        (["--dtype", "float8"], "--dtype float8", "bfloat16"),
        (["--batch", "0"], "--batch 0", "at least 1"),
        (["--batch", "100"], "--batch 100", "--batch 64"),
        (["--batch", "32"], "--batch 32", "--batch 64"),
        (["--batch", "640", "--micro-batch", "4"], "--micro-batch 4; a step has 10 sequences", "--micro-batch 2"),
    ],
)
def test_what_cannot_be_is_refused_in_three_lines(workplace, capsys, options, saw, fix):
    status, _, err = run(capsys, "--machine", str(OTHER_MACHINE), *options)
    assert status == 2
    assert len(err.splitlines()) == 3
    assert saw in err
    assert fix in err


def test_the_machine_is_the_measured_one_the_kept_one_or_asked_for(workplace, capsys, monkeypatch):
    hardware = MACHINES["server"]
    monkeypatch.setattr(command, "identify_here", lambda params: Identity(hardware.fingerprint, hardware.usable_memory_bytes, []))
    status, _, err = run(capsys)
    assert (status, "not measured yet" in err, "--machine, for example laptop" in err) == (2, True, True)
    keep_speeds(hardware.fingerprint, hardware.measured)
    status, out, _ = run(capsys)
    assert (status, "2 cores with AVX512-BF16" in out) == (0, True)
    MACHINES["laptop"].save(paths.HARDWARE)
    assert "2 cores without bfloat16" in run(capsys)[1]


@pytest.mark.parametrize("name", SHEETS)
def test_a_machine_is_sized_by_its_data_sheet(workplace, capsys, name):
    hardware, model = machine_of(SHEETS[name]), model_plan(vocab_size=4096, d_model=512, head_dim=64, num_heads=8, num_kv_heads=8, d_ff=1376, seq_len=512)
    assert "by its data sheet" in run(capsys, "--machine", name)[1]
    sizing = size_up(model, hardware, price_of)
    computed = sizing.tokens_per_s * sizing.train_flops_per_token
    assert sizing.fits
    assert computed < max(SHEETS[name].flops_per_s.values())  # nothing is quicker than its data sheet
    assert sizing.train.dtype in SHEETS[name].flops_per_s
    for speeds in hardware.measured.dtypes:
        assert all(gemm.flops_per_s < REACHED * SHEETS[name].flops_per_s[speeds.dtype] for gemm in speeds.gemms)


def test_quicker_machines_take_fewer_days():
    model = model_plan(vocab_size=32768, num_layers=12, d_model=768, head_dim=64, num_heads=12, num_kv_heads=12, d_ff=2048, seq_len=1024)
    names = ["laptop", "gtx-1650", "rtx-3060", "rtx-3090", "rtx-4090", "a100", "h100"]
    days = [size_up(model, machine_of(SHEETS[name]), price_of).train_s for name in names]
    assert days == sorted(days, reverse=True)


def test_a_machine_that_nobody_knows_is_refused_with_the_nearest_and_the_way_to_measure_it(workplace, capsys):
    status, _, err = run(capsys, "--machine", "rtx-4900")
    assert (status, "did you mean `rtx-4090`?" in err, "on that machine" in err) == (2, True, True)
    assert "use one of: a100, gtx-1650" in run(capsys, "--machine", "elsewhere/hardware.json")[2]
    assert run(capsys, "--machine", "")[0] == 2, "nothing is no name, and not this machine"


def test_no_heavy_library_is_needed(tmp_path):
    arguments = ["size", *SHAPE, "--machine", "t4"]
    code = f"import sys; from pufferfish.cli.main import main; main({arguments}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "pufferfish.model.price" in loaded
    assert not {"torch", "numpy", "tokenizers", "mlflow", "transformers"} & set(loaded)
