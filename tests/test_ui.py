"""What people see: events in, lines out; tables and the summary fit their widths and say late when it was late."""

from __future__ import annotations

import io
import os
from contextlib import suppress

import pytest

from pufferfish.base.events import CheckpointSaved, EvalDone, Finished, Refit, Shrunk, Started, StepDone, Warned
from pufferfish.schema.hardware import Fingerprint, Gpu, Hardware, Measured
from pufferfish.schema.plan import STAGES, BudgetPlan, Candidate, DataPlan, Forecast, ModelPlan, Phases, Plan, TrainPlan, Why
from pufferfish.schema.reports import Evaluation, ExportReport, Outcome
from pufferfish.ui.lines import machine_lines, pack
from pufferfish.ui.plain import PlainView, event_line
from pufferfish.ui.screen import ScreenView, panel
from pufferfish.ui.summary import summary
from pufferfish.ui.tables import plan_text
from pufferfish.ui.view import open_view, view_for

PHASES = Phases(hardware_probe_s=4.0, plan_s=9.0, prepare_subset_s=6.0, train_s=141.0, evaluate_s=10.0, export_s=7.0, between_s=3.0)
CANDIDATE = Candidate(
    vocab_size=2048, num_layers=4, d_model=128, seq_len=256, tokens_per_step=4096, num_params=1_310_000, is_compiled=True,
    predicted_step_s=0.151, measured_step_s=0.1547, tokens=3_700_000, val_bpb=1.3121, verdict="chosen: the smaller of near-equals, and then some words",
)  # fmt: skip
UNMEASURED = CANDIDATE.model_copy(update={"measured_step_s": 0.0, "predicted_step_s": 0.1551, "is_compiled": False})


@pytest.fixture
def hardware():
    seen = Fingerprint(
        system="Linux", python="3.11", torch="2.13", cpu="Example 7763", cpu_flags=[], num_cores=2, memory_bytes=8 * 10**9, gpus=[], device="cpu", num_threads=2
    )
    measured = Measured(dtypes=[], bandwidth_bytes_per_s=1e10, launch_s=1e-6, disk_write_bytes_per_s=1e9, import_torch_s=1.4, has_compiler=True)
    return Hardware(fingerprint=seen, measured=measured, usable_memory_bytes=6_400_000_000)


@pytest.fixture
def plan():
    return Plan(
        hardware="abc",
        budget=BudgetPlan(total_s=180.0, reserve_s=18.0, reserve_factor=1.25, unused_s=0, phases=PHASES),
        data=DataPlan(
            source="stdlib", path="", corpus="c", validation_path="", validation_content="", validation_share=0.05, max_validation_bytes=10**6,
            vocab_size=2048, tokenizer_bytes=10**6, train_bytes=11_000_000, seed=0,
        ),
        model=ModelPlan(
            vocab_size=2048, num_layers=4, d_model=128, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=352, seq_len=256, rope_theta=1e4, norm_eps=1e-6,
            is_tied=True, has_qk_norm=True, lookup="none",
        ),
        train=TrainPlan(
            device="cpu", num_threads=2, memory_bytes=10**9, dtype="float32", attention="sdpa", is_compiled=True, is_checkpointed=False, optimizer="muon",
            matrix_lr=0.02, embedding_lr=0.3, head_lr=0.004, gain_lr=0.01, weight_decay=0.1, clip_norm=1.0, micro_batch=8, tokens_per_step=4096,
            clock="deadline", num_steps=903, warmup_share=0.02, cooldown_share=0.4, final_lr_share=0.0, input_noise=0.0, teacher_share=0.0, num_evals=6,
            eval_tokens=20000, checkpoint_interval_s=30.0, seed=0, data_seed=0,
        ),
        forecast=Forecast(
            val_bpb=1.3121, val_bpb_low=1.22, val_bpb_high=1.41, law=1, correction=1.0, is_free=True, step_s=0.1547, tokens=3_700_000, epochs=1.2,
            peak_memory_bytes=612_000_000, num_params=1_310_000, flops_per_token=7.9e6,
        ),
        why=Why(reasons=["time for about 3.7 M tokens, and a model of this size learns most from it " * 2], candidates=[CANDIDATE, UNMEASURED]),
    )  # fmt: skip


@pytest.fixture
def outcome():
    return Outcome(
        plan="p", subset="s", weights_sha256="w", run_key="k", num_steps=912, num_tokens=3_735_552, final_loss=2.1, final_lr_share=0.0, train_s=139.5,
        planned_s=140.0, median_step_s=0.15, tokens_per_s=26_700.0, peak_memory_bytes=598_000_000, num_resumes=1, warnings=["the text was repeated 1.2 times"],
    )  # fmt: skip


@pytest.fixture
def evaluation():
    return Evaluation(
        weights_sha256="w", val_bpb=1.3188, val_loss_nats=2.4, perplexity=11.0, num_tokens=180_000, num_bytes=560_000, forecast_bpb=1.3121,
        baselines={"uniform": 8.0, "unigram": 4.62, "5-gram": 1.91, "lzma": 2.03}, ngram_tokens=3_000_000,
    )  # fmt: skip


@pytest.fixture
def report():
    return ExportReport(
        weights_sha256="w",
        folder="artifacts/export/hf",
        architecture="Qwen3ForCausalLM",
        num_bytes=5_300_000,
        max_logit_difference=1e-6,
        num_texts_compared=1000,
    )


def timing(**elapsed_s: float) -> dict[str, dict]:
    """Stages as they ran one after another, half a second apart."""
    planned = {stage: getattr(PHASES, f"{stage.replace('-', '_')}_s") for stage in STAGES}
    stamps, now_s = {}, 1000.0
    for stage in STAGES:
        cost_s = elapsed_s.get(stage.replace("-", "_"), planned[stage])
        stamps[stage] = {"stage": stage, "boot_id": "b", "start_s": now_s, "end_s": now_s + cost_s, "elapsed_s": cost_s}
        now_s += cost_s + 0.5
    return stamps


def step_done(step: int, *, u: float = 0.5, elapsed_s: float = 0.0) -> StepDone:
    return StepDone(
        step=step, u=u, loss=3.4567, learning_rate=0.75, grad_norm=0.4, num_tokens=step * 4096, tokens_per_s=26_700.0,
        elapsed_s=elapsed_s, remaining_s=70.0, memory_bytes=612_000_000,
    )  # fmt: skip


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few_and_say_everything():
    stream = io.StringIO()
    with PlainView(stream) as view:
        view(Started(step=0, num_params=1_310_000, train_s=141.0, is_resumed=False))
        for step in range(100):
            view(step_done(step, elapsed_s=0.15 * step))
        view(EvalDone(step=99, u=0.5, val_bpb=1.5, elapsed_s=15.0, cost_s=0.4))
        view(CheckpointSaved(step=99, cost_s=0.2, num_bytes=16_000_000))
        view(Refit(step=99, reason="slower than planned", expected_steps=880))
        view(Shrunk(step=99, micro_batch=4, reason="out of memory"))
        view(Warned(step=99, message="the text is repeated"))
        view(Finished(step=912, u=1.0, num_tokens=3_735_552, elapsed_s=140.2, late_s=-0.8))
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if "loss 3.457" in line]) == 3, "one for each five seconds"
    for words in ("1.31 M parameters", "1.500 bits per byte", "saved 16.0 MB", "slower than planned; 880", "micro-batch is now 4", "repeated", "0.8 s early"):
        assert any(words in line for line in lines), words
    assert all(line.startswith("train: ") and len(line) <= 110 for line in lines)


@pytest.mark.parametrize(("late_s", "words"), [(None, "in 2m 20s"), (-0.8, "in 2m 20s, 0.8 s early"), (2.0, "in 2m 20s, 2.0 s late")])
def test_the_end_says_how_late_it_is_where_there_was_a_deadline(late_s, words):
    done = Finished(step=912, u=1.0, num_tokens=3_735_552, elapsed_s=140.2, late_s=late_s)
    assert event_line(done) == f"done: 912 steps, 3.74 M tokens {words}"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_panel_fits_the_terminal(width):
    lines = panel(step_done(500), 1.5, 1.3121, width=width, has_blocks=True).plain.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 7
    words = " ".join(lines)
    for field in ("50%", "1m 10s left", "loss 3.457", "26.7 k tokens/s", "612.0 MB", "validation 1.500", "forecast 1.312", "rate 0.75"):
        assert field in words


def test_the_bar_fills_with_progress():
    bars = [panel(step_done(1, u=u), None, 1.3, width=80, has_blocks=False).plain.splitlines()[0] for u in (0.0, 0.25, 1.0)]
    counts = [bar.count("#") for bar in bars]
    assert counts[0] == 0
    assert counts[0] < counts[1] < counts[2]
    assert "-" not in bars[2]


def test_the_screen_redraws_at_most_four_times_a_second(plan, monkeypatch):
    now_s = 100.0
    monkeypatch.setattr("pufferfish.ui.screen.time.monotonic", lambda: now_s)
    monkeypatch.setenv("COLUMNS", "80")
    drawn = []
    monkeypatch.setattr(ScreenView, "_draw", lambda self, draw=ScreenView._draw: (drawn.append(now_s), draw(self)))
    stream = Terminal()
    with ScreenView(plan, stream) as view:
        for step in range(200):
            now_s += 0.01
            view(step_done(step))
        view(Warned(step=200, message="the text is repeated [twice]"))
    assert 8 <= len(drawn) <= 10
    assert "repeated [twice]" in stream.getvalue()
    assert "loss 3.457" in stream.getvalue()


def test_a_reader_that_pauses_does_not_hold_up_the_work(plan):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"unread " * 100):
            pass
    os.set_blocking(writer, True)
    with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb") as unread:
        with open_view(plan, stream=stream) as view:
            view(Warned(step=1, message="said to nobody"))
            unread.read(1 << 15)
            view(Warned(step=2, message="said in time"))
        stream.close()
        said = unread.read()
    assert b"said in time" in said
    assert b"nobody" not in said


def test_the_view_suits_the_place(plan, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(view_for(plan, Terminal()), ScreenView)
    assert isinstance(view_for(plan, io.StringIO()), PlainView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view_for(plan, Terminal()), PlainView)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert isinstance(view_for(plan, Terminal()), PlainView)


def test_no_color_means_no_color(plan, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with ScreenView(plan, stream) as view:
        view(step_done(1))
    assert "\x1b[36m" not in stream.getvalue()


def test_a_plan_is_explained_in_full_and_fits(plan, hardware):
    text = plan_text(plan, hardware)
    assert max(map(len, text.splitlines())) <= 110
    expected = [
        "Plan for 3m 00s",
        "Example 7763, 2 cores",
        "1.31 M parameters",
        "4 layers x 128 wide, 4 heads (2 key/value)",
        "2,048 byte-level",
        "4,096 tokens a step",
    ]
    expected += [
        "matrices 0.02",
        "float32, compiled",
        "612.0 MB at the peak of 6.4 GB",
        "1.312 bits per byte (80 %: 1.220 to 1.410)",
        "2m 21s",
        "78%",
        "155 ms*",
        "~155 ms ",
        "chosen: the smaller of",
    ]
    for words in expected:
        assert words in text, words
    assert "cpu, 2 threads" in plan_text(plan)


def test_every_device_is_named(hardware):
    gpu = Gpu(name="Example H1", compute_capability="9.0", memory_bytes=140 * 10**9, driver="1.2")
    seen = hardware.fingerprint.model_copy(update={"gpus": [gpu], "device": "cuda", "num_cores": 1})
    lines = machine_lines(hardware.model_copy(update={"fingerprint": seen}))
    assert lines == ["Example 7763, 1 core, 8.0 GB memory", "Example H1, compute capability 9.0, 140.0 GB, 6.4 GB usable"]


@pytest.mark.parametrize(("train_s", "words"), [(141.0, "0.5 s early"), (145.25, "3.8 s late"), (141.5, "on time")])
def test_the_summary_says_whether_it_was_late(plan, hardware, outcome, evaluation, report, train_s, words):
    text = summary(plan, hardware, timing(train=train_s), outcome, evaluation, report, "def main():\n    pass")
    total_line = next(line for line in text.splitlines() if line.strip().startswith("total"))
    assert words in total_line
    assert words in text.splitlines()[0]
    assert "between stages" in text


def test_between_stages_of_different_days_the_planned_pause_is_counted(plan, hardware, outcome, evaluation, report):
    stamps = timing()
    stamps["train"] |= {"start_s": 90_000.0, "end_s": 90_141.0}
    text = summary(plan, hardware, stamps, outcome, evaluation, report, "")
    assert "0.3 s early" in text.splitlines()[0], "three real pauses and two planned ones"


def test_the_summary_is_one_screen_with_everything(plan, hardware, outcome, evaluation, report):
    sample = "def main(arguments):\n\treturn \x1b[31m0 🐡\n" + "word " * 60 + "\n" * 12 + "end"
    text = summary(plan, hardware, timing(), outcome, evaluation, report, sample)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 79
    assert len(lines) <= 50
    assert "\x1b" not in text
    order = [text.index(name) for name in ("this model", "5-gram", "lzma", "unigram", "uniform", "forecast was")]
    assert order == sorted(order)
    for words in ("1.319", "912 steps", "resumed 1 time", "repeated 1.2 times", "artifacts/export/hf", "make ui", "pufferfish generate", "budget.time=10m"):
        assert words in text, words


def test_long_fields_are_cut_and_never_overflow():
    assert pack(["a" * 50, "b", "c"], width=40) == ["a" * 40, "b   c"]


def test_the_work_goes_on_where_nobody_reads_what_it_says(plan):
    reader, writer = os.pipe()
    seen = []
    with os.fdopen(writer, "w") as stream, open_view(plan, stream=stream) as view:
        view(Started(step=0, num_params=1_310_000, train_s=141.0, is_resumed=False))
        os.close(reader)
        for step in range(3):
            view(Warned(step=step, message="the text is repeated"))
            seen.append(step)
    assert seen == [0, 1, 2]
