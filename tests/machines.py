"""Made-up machines, texts and vocabularies for the planner, and a planner on them whose time is a variable."""

from dataclasses import dataclass
from functools import cache

import pytest

from pufferfish.model.price import decoder_price
from pufferfish.plan import choose, space
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.configure import Situation
from pufferfish.plan.make import decide
from pufferfish.plan.measuring import MEASURED_STEPS_S
from pufferfish.plan.prices import StepTime
from pufferfish.plan.scaling import Text
from pufferfish.plan.speed import Machine, step_seconds
from pufferfish.schema.hardware import Corpus, DtypeSpeed, Fingerprint, Gemm, Gpu, Hardware, Measured
from pufferfish.schema.params import ModelParams, Params

SHAPES = [(m, k, n) for m in (256, 1024, 4096) for k, n in ((64, 256), (256, 1024), (512, 2048), (1024, 4096), (256, 8192))]


def _speeds(dtype, peak_flops_per_s, half_speed):
    """Small products run below the peak: `half_speed` is the number of multiplications at which a product reaches half of it."""
    gemms = [Gemm(m=m, k=k, n=n, flops_per_s=peak_flops_per_s * m * k * n / (m * k * n + half_speed)) for m, k, n in SHAPES]
    return DtypeSpeed(dtype=dtype, gemms=gemms)


def _hardware(name, *, speeds, memory_bytes, num_threads, bandwidth_bytes_per_s, launch_s, import_torch_s, has_compiler, gpu=None):
    gpus = [Gpu(name=name, compute_capability=gpu, memory_bytes=memory_bytes, driver="580.0")] if gpu else []
    fingerprint = Fingerprint(
        system="Linux", python="3.11.7", torch="2.13.0", cpu=name, cpu_flags=[], num_cores=num_threads, memory_bytes=memory_bytes, gpus=gpus,
        device="cuda" if gpu else "cpu", num_threads=num_threads,
    )  # fmt: skip
    measured = Measured(
        dtypes=speeds, bandwidth_bytes_per_s=bandwidth_bytes_per_s, launch_s=launch_s, disk_write_bytes_per_s=5e8, import_torch_s=import_torch_s,
        has_compiler=has_compiler,
    )  # fmt: skip
    return Hardware(fingerprint=fingerprint, measured=measured, usable_memory_bytes=memory_bytes)


MACHINES = {
    "laptop": _hardware(
        "2 cores without bfloat16", speeds=[_speeds("float32", 6e10, 2e6)], memory_bytes=8 * 10**9, num_threads=2, bandwidth_bytes_per_s=9e9,
        launch_s=1.2e-6, import_torch_s=2.9, has_compiler=False,
    ),
    "server": _hardware(
        "2 cores with AVX512-BF16", speeds=[_speeds("bfloat16", 9e11, 3e7), _speeds("float32", 2.1e11, 4e6)], memory_bytes=24 * 10**9, num_threads=2,
        bandwidth_bytes_per_s=2.1e10, launch_s=1e-6, import_torch_s=1.4, has_compiler=True,
    ),
    "gpu of 4 GB": _hardware(
        "4 GB without bfloat16", speeds=[_speeds("float16", 6e12, 3e8), _speeds("float32", 2.8e12, 2e8)], memory_bytes=4 * 10**9, num_threads=6,
        bandwidth_bytes_per_s=1.9e11, launch_s=6e-6, import_torch_s=2.6, has_compiler=False, gpu="7.5",
    ),
    "H200": _hardware(
        "H200", speeds=[_speeds("bfloat16", 7e14, 4e10), _speeds("float32", 4.5e13, 3e9)], memory_bytes=150 * 10**9, num_threads=16,
        bandwidth_bytes_per_s=4e12, launch_s=5e-6, import_torch_s=3.1, has_compiler=True, gpu="9.0",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class FakeVocabulary:
    """What a survey of a vocabulary would say."""

    vocab_size: int
    bytes_per_token: float
    train_tokenizer_s: float = 0.35
    encode_s_per_mb: float = 0.3
    filling_bytes: float = 600_000


BYTES_PER_TOKEN = {512: 1.93, 1024: 2.42, 2048: 2.87, 4096: 3.25, 8192: 3.56, 16384: 3.81, 32768: 4.02}


def vocabularies(hardware, wish="auto"):
    """Those that a survey would look at."""
    largest = 8192 if hardware.fingerprint.device == "cpu" else 32768
    encode_s_per_mb = 0.6 / hardware.fingerprint.num_threads
    return [
        FakeVocabulary(size, each, encode_s_per_mb=encode_s_per_mb)
        for size, each in BYTES_PER_TOKEN.items()
        if (size <= largest if wish == "auto" else size == wish)
    ]


def corpus(num_bytes=11_000_000):
    """So much text, from which documents are held back."""
    return Corpus(
        source="stdlib", path="", content="c0", num_bytes=num_bytes, num_files=700, has_short_documents=False, validation_path="",
        validation_content="", validation_bytes=0,
    )  # fmt: skip


def price_of(model, attention):
    """Real prices."""
    return decoder_price(model, attention=attention)


class Planner:
    """Plans on a made-up machine, whose real steps take `slowness` times what is predicted."""

    def __init__(self, machine, *, slowness=1.2, num_bytes=11_000_000, memory_bytes=None, difficulty=1.0):
        self.hardware = MACHINES[machine] if isinstance(machine, str) else machine
        if memory_bytes:
            self.hardware = self.hardware.model_copy(update={"usable_memory_bytes": memory_bytes})
        self.machine, self.slowness = Machine(self.hardware), slowness
        self.corpus, self.text = corpus(num_bytes), Text(0.95 * num_bytes, difficulty)
        self.spent_s, self.measured = 1.5, []

    def measure(self, model, train):
        """Costs what such a measurement would cost."""
        step_s = self.slowness * step_seconds(self.machine, price_of(model, train.attention), model, train)
        first_step_s = 25.3 if train.is_compiled else 0.3
        self.spent_s += first_step_s + max(MEASURED_STEPS_S, 3 * step_s)
        self.measured.append((model, train))
        return StepTime(step_s, 10**9, first_step_s)

    def plan(self, time="3m", **sections):
        """A plan for a budget, with wishes such as `model={"num_layers": 3}`."""
        self.spent_s, self.measured = 1.5, []
        params = Params.model_validate({"budget": {"time": time}, **sections})
        case = Case(params, self.hardware, self.corpus, vocabularies(self.hardware, params.data.vocab_size), self.text, price_of)
        return decide(case, Measuring(self.measure, lambda: self.spent_s)).plan


SMALL = {"data": {"vocab_size": 2048}, "model": {"seq_len": 256}}  # a small grid, priced in no time
each_machine = pytest.mark.parametrize("machine", MACHINES)


@cache
def usual(machine="server", time="3m"):
    """One plan for several questions."""
    planner = Planner(machine)
    return planner, planner.plan(time, data={"vocab_size": 2048})


def situation(planner, **train):
    params = Params.model_validate({"train": train})
    return Situation(planner.machine, params.data, params.train, price_of, planner.text, lambda vocabulary: 100.0)


@cache
def some_candidates():
    planner = Planner("server")
    models = space.models(ModelParams(seq_len=256), [2048], max_seq_len=512)
    return planner, choose.enumerate_candidates(situation(planner, compile=False), models, vocabularies(planner.hardware, 2048))
