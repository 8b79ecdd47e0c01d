"""The machine is measured once: the same bytes afterwards, whatever happens to the artifacts, and anew where the kept speeds cannot be trusted."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.probe import health, measure, probe, surroundings
from pufferfish.probe.describe import describe
from pufferfish.schema.hardware import DtypeSpeed, Gemm, Gpu, Hardware, Measured
from pufferfish.schema.params import HardwareProbeParams

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
WISH = HardwareProbeParams(device="cpu", threads=1)
SPEEDS = Measured(
    dtypes=[
        DtypeSpeed(dtype="bfloat16", gemms=[Gemm(m=3, k=5, n=7, flops_per_s=4e9), Gemm(m=6, k=5, n=7, flops_per_s=9e9)]),
        DtypeSpeed(dtype="float32", gemms=[Gemm(m=3, k=5, n=7, flops_per_s=2e9)]),
    ],
    bandwidth_bytes_per_s=1.1e10,
    launch_s=1.3e-6,
    disk_write_bytes_per_s=1.7e8,
    import_torch_s=1.9,
    has_compiler=False,
)


@pytest.fixture
def told():
    return []


@pytest.fixture
def measurements(workplace, monkeypatch):
    """Counts measurements, which take no time."""
    done = []
    monkeypatch.setattr(probe, "measure", lambda fingerprint: done.append(fingerprint) or SPEEDS)
    monkeypatch.setattr(probe, "compiler_here", lambda fingerprint: False)
    return done


def test_the_same_machine_gives_the_same_bytes_even_after_the_artifacts_are_gone(measurements, told):
    hardware, is_measured_anew = probe.probe(WISH, tell=told.append)
    hardware.save(paths.HARDWARE)
    before = paths.HARDWARE.read_bytes()
    shutil.rmtree(paths.ARTIFACTS)
    again, is_measured_again = probe.probe(WISH, tell=told.append)
    again.save(paths.HARDWARE)
    assert paths.HARDWARE.read_bytes() == before
    assert (is_measured_anew, is_measured_again, len(measurements)) == (True, False, 1)
    assert Hardware.load(paths.HARDWARE) == hardware


def test_another_number_of_threads_is_measured_by_itself(measurements, told):
    probe.probe(WISH, tell=told.append)
    probe.probe(HardwareProbeParams(device="cpu", threads=3), tell=told.append)
    assert [fingerprint.num_threads for fingerprint in measurements] == [1, 3]


@pytest.mark.parametrize("damage", ["", "{", "[]", f'{{"version": {probe.VERSION}}}', '"text"'])
def test_damaged_speeds_are_measured_anew_and_it_is_told(measurements, told, damage):
    probe.probe(WISH, tell=told.append)
    probe.speeds_path(measurements[0]).write_text(damage)
    told.clear()
    assert probe.probe(WISH, tell=told.append)[1]
    assert "damaged" in told[0]
    assert not probe.probe(WISH, tell=told.append)[1]


@pytest.mark.parametrize(("key", "value"), [("version", 0), ("fingerprint", {"cpu": "another"})])
def test_speeds_of_another_version_or_machine_are_measured_anew_and_it_is_told(measurements, told, key, value):
    probe.probe(WISH, tell=told.append)
    path = probe.speeds_path(measurements[0])
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    told.clear()
    assert probe.probe(WISH, tell=told.append)[1]
    assert "another version" in told[0]


def test_the_process_is_prepared_only_where_something_is_measured(measurements, told):
    prepared = []
    probe.before_measuring(WISH, prepared.append)
    probe.probe(WISH, tell=told.append)
    probe.before_measuring(WISH, prepared.append)
    assert prepared == [1]


def test_forgotten_speeds_are_measured_again(measurements, told):
    probe.probe(WISH, tell=told.append)
    assert probe.forget_speeds() == 1
    assert probe.probe(WISH, tell=told.append)[1]


def test_speeds_that_cannot_be_kept_are_the_users_to_mend(measurements, told):
    paths.state().mkdir()
    (paths.state() / "machines").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be kept"):
        probe.probe(WISH, tell=told.append)


def test_a_busy_machine_is_noticed_and_a_quiet_one_is_not():
    assert "load 3.7 on 4 cores" in health.load_advice(running=3.7, num_cores=4)
    assert health.load_advice(running=0.2, num_cores=4) == ""


def test_the_table_is_right_about_what_it_multiplied(monkeypatch):
    monkeypatch.setattr(measure, "CPU_TOKENS", (6, 10))
    monkeypatch.setattr(measure, "WEIGHTS", ((4, 12), (8, 20)))
    monkeypatch.setattr(measure, "seconds_per_call", lambda call, device, box_s: call() is None or 0.5)
    table = measure.gemm_table(torch.float32, CPU)
    assert [(gemm.m, gemm.k, gemm.n) for gemm in table] == [(6, 4, 12), (10, 4, 12), (6, 8, 20), (10, 8, 20)]
    assert [gemm.flops_per_s for gemm in table] == [2 * m * k * n / 0.5 for m, k, n in [(6, 4, 12), (10, 4, 12), (6, 8, 20), (10, 8, 20)]]


def test_shapes_that_do_not_fit_into_the_time_are_left_out(monkeypatch):
    monkeypatch.setattr(measure, "gemm_flops_per_s", lambda *shape, **more: 1e3)
    assert [(gemm.m, gemm.k, gemm.n) for gemm in measure.gemm_table(torch.float32, CPU)] == [(1024, 64, 256)]


def test_dtypes_come_fastest_first_and_slow_or_wrong_ones_not_at_all(monkeypatch):
    speeds = {torch.float32: 8e9, torch.bfloat16: 3e10, torch.float16: 1e9}
    monkeypatch.setattr(measure, "gemm_flops_per_s", lambda *shape, dtype, **more: speeds[dtype])
    monkeypatch.setattr(measure, "CPU_TOKENS", (6,))
    assert [speed.dtype for speed in measure.measure_dtypes(CPU)] == ["bfloat16", "float32"]
    monkeypatch.setattr(measure, "is_correct", lambda name, device: name != "bfloat16")
    assert [speed.dtype for speed in measure.measure_dtypes(CPU)] == ["float32"]


def test_a_dtype_that_computes_something_else_is_not_correct(monkeypatch):
    assert measure.is_correct("float32", CPU)
    assert measure.is_correct("bfloat16", CPU)
    monkeypatch.setitem(measure.DTYPES, "bfloat16", measure.DTYPES["float32"])
    assert not measure.is_correct("bfloat16", CPU)


@pytest.mark.parametrize(
    "words", ["CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`\nmore", "CUDA out of memory. Tried to allocate 20.00 MiB."]
)
def test_memory_that_others_hold_says_nothing_of_a_dtype(monkeypatch, words):
    def refuse(self, device):
        raise RuntimeError(words)

    monkeypatch.setattr(torch.Tensor, "to", refuse)
    monkeypatch.setattr(measure, "WEIGHTS", ((4, 12),))
    with pytest.raises(UserError, match="no free memory") as error:
        measure.measure_dtypes(CPU)
    assert error.value.saw == words.splitlines()[0]
    assert "other programs" in error.value.fix


def test_memory_that_runs_out_in_the_table_is_the_users_to_mend(monkeypatch):
    def refuse(*shape, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(measure, "gemm_flops_per_s", refuse)
    with pytest.raises(UserError, match="no free memory"):
        measure.measure_dtypes(CPU)


def test_a_dtype_without_kernels_is_left_out(monkeypatch):
    right = torch.Tensor.__matmul__

    def multiply(a, b):
        if a.dtype == torch.bfloat16:
            raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'BFloat16'")
        return right(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", multiply)
    assert not measure.is_correct("bfloat16", CPU)
    assert measure.is_correct("float32", CPU)


def test_a_device_on_which_nothing_is_right_is_refused_and_never_kept(workplace, monkeypatch):
    monkeypatch.setattr(measure, "is_correct", lambda name, device: False)
    monkeypatch.setattr(surroundings, "import_torch_s", lambda: 1.5)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(UserError, match="cannot multiply"):
        probe.probe(WISH, tell=lambda line: None)
    assert not list(paths.state().rglob("*.json"))


def test_on_cuda_the_call_that_loads_the_kernel_is_not_timed(monkeypatch):
    clock = SimpleNamespace(now_s=0.0, calls=0)

    def call():
        clock.calls += 1
        clock.now_s += 7.0 if clock.calls == 1 else 0.5

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert measure.seconds_per_call(call, torch.device("cuda"), box_s=0.0) == 0.5
    assert clock.calls == 2
    clock.calls = 0
    assert measure.seconds_per_call(call, CPU, box_s=0.0) == 7.0


def test_the_fastest_span_counts(monkeypatch):
    clock = iter([0.0, 0.0, 3.0, 3.0, 3.0, 5.0, 5.0, 5.0, 6.0, 99.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert measure.seconds_per_call(lambda: None, CPU, box_s=50.0) == 1.0


def test_a_real_measurement_of_everything_is_complete_and_positive(workplace, monkeypatch):
    monkeypatch.setattr(measure, "TABLE_BOX_S", {"cpu": 0.01})
    monkeypatch.setattr(measure, "CPU_TOKENS", (24,))
    monkeypatch.setattr(measure, "TRIAD_ELEMENTS", {"cpu": 1000})
    monkeypatch.setattr(surroundings, "import_torch_s", lambda: 1.5)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    fingerprint = probe.identify_here(WISH).fingerprint
    measured = probe.measure(fingerprint)
    assert "float32" in [speed.dtype for speed in measured.dtypes]
    assert all(gemm.flops_per_s > 0 for speed in measured.dtypes for gemm in speed.gemms)
    assert min(measured.bandwidth_bytes_per_s, measured.launch_s, measured.disk_write_bytes_per_s) > 0
    assert list(paths.state().iterdir()) == []


def test_a_device_that_cannot_compute_is_the_users_to_mend(workplace, monkeypatch):
    def refuse(name, num_threads):
        raise RuntimeError("CUDA error: no kernel image\nmore words")

    monkeypatch.setattr(measure, "prepare_device", refuse)
    monkeypatch.setattr(surroundings, "import_torch_s", lambda: 1.5)
    with pytest.raises(UserError, match="cannot compute") as error:
        probe.measure(probe.identify_here(WISH).fingerprint)
    assert error.value.saw == "CUDA error: no kernel image"


@pytest.mark.parametrize(("num_devices", "first", "is_refused"), [(2, "small", True), (2, "large", False), (1, "of another name", False)])
def test_several_devices_that_cuda_counts_otherwise_are_told(workplace, monkeypatch, num_devices, first, is_refused):
    class Measuring(Exception):
        pass

    def begin(device):
        raise Measuring

    gpus = [Gpu(name=name, compute_capability="8.9", memory_bytes=10**10, driver="590.1") for name in ("large", "small")][:num_devices]
    fingerprint = probe.identify_here(WISH).fingerprint.model_copy(update={"gpus": gpus, "device": "cuda"})
    monkeypatch.setattr(surroundings, "import_torch_s", lambda: 1.5)
    monkeypatch.setattr(surroundings, "has_compiler", lambda *device: False)
    monkeypatch.setattr(measure, "prepare_device", lambda name, num_threads: CPU)
    monkeypatch.setattr(measure, "measure_dtypes", begin)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: first)
    with pytest.raises(UserError if is_refused else Measuring) as error:
        probe.measure(fingerprint)
    if is_refused:
        assert error.value.saw == "CUDA's first is small, where large was expected"
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in error.value.fix


def test_a_disk_that_cannot_be_written_is_the_users_to_mend(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match="disk cannot be written") as error:
        surroundings.disk_write_bytes_per_s(tmp_path)
    assert "No space left on device" in error.value.saw


@pytest.mark.parametrize(("worked_s", "found_s", "code"), [(1.3, 1.6, "import pufferfish.schema.params"), (0.8, 0.2, "import pufferfish.schema.params, torch")])
def test_an_import_that_waited_for_the_disk_is_measured_again(monkeypatch, worked_s, found_s, code):
    clock = SimpleNamespace(wall_s=0.0, worked_s=0.0)

    def import_module(name):
        clock.wall_s += 1.4
        clock.worked_s += worked_s

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(surroundings, "time", SimpleNamespace(perf_counter=lambda: clock.wall_s, process_time=lambda: clock.worked_s))
    monkeypatch.setattr(surroundings.importlib, "import_module", import_module)
    codes = []
    monkeypatch.setattr(surroundings, "_interpreter_s", lambda code: codes.append(code) or 0.2)
    assert surroundings.import_torch_s() == pytest.approx(found_s)
    assert codes == [code]


def test_no_compiler_is_noticed(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not surroundings.has_compiler("cpu", "")


@pytest.mark.parametrize(
    ("capability", "has_triton", "has_headers", "compilers", "expected"),
    [
        ("9.0", True, True, ["gcc"], True),
        ("9.0", True, True, ["clang"], True),
        ("9.0", True, False, ["gcc"], False),
        ("9.0", False, True, ["gcc"], False),
        ("6.1", True, True, ["gcc"], False),
        ("9.0", True, True, [], False),
    ],
)
def test_on_cuda_a_compiler_needs_triton_and_pythons_headers(tmp_path, monkeypatch, capability, has_triton, has_headers, compilers, expected):
    if has_headers:
        (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(surroundings.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(surroundings.importlib.util, "find_spec", lambda name: object() if has_triton else None)
    monkeypatch.setattr(surroundings.shutil, "which", lambda name: name if name in compilers else None)
    assert surroundings.has_compiler("cuda", capability) == expected


def test_a_compiler_that_was_installed_since_is_noticed(measurements, told, monkeypatch):
    assert not probe.probe(WISH, tell=told.append)[0].measured.has_compiler
    monkeypatch.setattr(probe, "compiler_here", lambda fingerprint: True)
    hardware, is_measured_anew = probe.probe(WISH, tell=told.append)
    assert hardware.measured == SPEEDS.model_copy(update={"has_compiler": True})
    assert not is_measured_anew
    monkeypatch.setattr(probe, "compiler_here", lambda fingerprint: pytest.fail("asked again"))
    assert probe.probe(WISH, tell=told.append)[0].measured.has_compiler


def test_the_description_names_machine_dtypes_and_speeds(measurements, told):
    text = "\n".join(describe(probe.probe(WISH, tell=told.append)[0]))
    assert "bfloat16   6 GFLOP/s (4 to 9 by shape)" in text
    assert "11 GB/s" in text
    assert "no torch.compile" in text


def run_stage(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(ROOT / "stages" / "hardware_probe.py")], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_stage_leaves_everything_as_it_is_the_second_time(workplace, told, monkeypatch):
    others = "".join(f"{name}: {{}}\n" for name in ("budget", "plan", "model", "train", "evaluate", "export"))
    (workplace / "params.yaml").write_text(others + "hardware_probe: {device: cpu, threads: 1}\ndata: {source: text, path: text.txt}\n")
    (workplace / "text.txt").write_text("".join(f"line {number} is a document of its own, with words\n" for number in range(200)))
    probe.keep_speeds(probe.identify_here(WISH).fingerprint, SPEEDS)  # so that nothing is measured
    first = run_stage(workplace)
    assert first.returncode == 0, first.stderr
    assert "float32" in first.stdout
    artifacts = [paths.HARDWARE, paths.CORPUS, paths.timing("hardware-probe")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in artifacts]
    assert run_stage(workplace).returncode == 0
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in artifacts] == before
    paths.timing("hardware-probe").unlink()
    run_stage(workplace)
    assert paths.timing("hardware-probe").exists()


def test_importing_the_stage_and_naming_the_machine_brings_no_torch():
    code = "import sys; sys.argv = ['x']; from pufferfish.probe.probe import identify_here; from pufferfish.schema.params import HardwareProbeParams as P; "
    code += "import pufferfish.probe.measure, pufferfish.cli.doctor; identify_here(P(device='cpu')); print('torch' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
