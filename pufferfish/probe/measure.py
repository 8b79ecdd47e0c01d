"""How fast the chosen device is: matrix products in each dtype that really runs, streaming, launching. About 1.5 seconds, once for each machine.

Neighbours only ever slow a measurement down, so every speed is the best of several spans, and every span is short enough to fall between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pufferfish.base.errors import UserError
from pufferfish.base.memory import says_out_of_memory
from pufferfish.schema.hardware import DtypeSpeed, Gemm

if TYPE_CHECKING:
    import torch

# (k, n) of layers and of a vocabulary head, for m tokens: small language models on a CPU, and larger ones on a GPU.
WEIGHTS = ((64, 256), (128, 512), (256, 1024), (512, 2048), (768, 3072), (256, 4096))
CPU_TOKENS = (1024, 4096)
GPU_WEIGHTS = (*WEIGHTS, (1024, 4096), (2048, 8192), (4096, 4096))
GPU_TOKENS = (1024, 4096, 16384)
TABLE_BOX_S = {"cpu": 0.35, "cuda": 1.0}  # planned for all products of one dtype
MAX_TABLE_S = {"cpu": 1.4, "cuda": 2.0}  # that a slow or busy machine may take
LEAST_BOX_S = {"cpu": 0.0, "cuda": 0.01}  # for one product, though loading the kernels of others took the time
DTYPES = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 3e-3}  # largest relative error of a product; float32 leaves room for TF32
USEFUL_SPEED = 0.25  # a dtype slower than this share of float32 is not worth its memory: float16 on most CPUs runs at a fiftieth
TRIAL = (256, 128, 512)
TRIAD_ELEMENTS = {"cpu": 2**24, "cuda": 2**27}  # float32, three arrays of 64 MiB: beyond the caches; on a GPU of 512 MiB
MIN_SPAN_S = 2e-3  # shorter spans measure the clock


def prepare_device(device_name: str, num_threads: int) -> torch.device:
    """The device with a kernel run on it, and the CPU threads set. Raises RuntimeError where it cannot compute."""
    import torch

    torch.set_num_threads(num_threads)
    device = torch.device("cuda:0" if device_name == "cuda" else "cpu")
    assert torch.ones(3, device=device).sum().item() == 3.0
    return device


def cuda_name(device: torch.device) -> str:
    """What CUDA calls it."""
    import torch

    return torch.cuda.get_device_name(device)


def measure_dtypes(device: torch.device) -> list[DtypeSpeed]:
    """The table of each dtype that computes correctly at a useful speed, the fastest dtype first.

    Raises UserError where none does, and where memory does not suffice to find out.
    """
    try:
        speeds = _useful_dtypes(device)
    except RuntimeError as error:
        if not says_out_of_memory(error):
            raise
        raise no_memory(error) from None
    if not speeds:
        saw, fix = f"products in {', '.join(DTYPES)} fail or are wrong", "update the driver and PyTorch, or write `hardware_probe.device: cpu`"
        raise UserError("the device cannot multiply", saw=saw, fix=fix)
    return sorted(speeds, key=lambda speed: -typical_flops_per_s(speed))


def no_memory(error: RuntimeError) -> UserError:
    """Other programs hold the memory of the device, so that nothing is known of it."""
    saw = str(error).strip().splitlines()[0]
    return UserError("there is no free memory to measure with", saw=saw, fix="end the other programs that use it, or choose another hardware_probe.device")


def _useful_dtypes(device: torch.device) -> list[DtypeSpeed]:
    import torch

    speeds: list[DtypeSpeed] = []
    useful_flops_per_s = 0.0
    for name in DTYPES:
        if not is_correct(name, device):
            continue
        trial_flops_per_s = gemm_flops_per_s(*TRIAL, dtype=getattr(torch, name), device=device, box_s=0.03)
        if trial_flops_per_s < USEFUL_SPEED * useful_flops_per_s:
            continue
        useful_flops_per_s = useful_flops_per_s or trial_flops_per_s
        speeds.append(DtypeSpeed(dtype=name, gemms=gemm_table(getattr(torch, name), device)))
    return speeds


def is_correct(dtype_name: str, device: torch.device) -> bool:
    """Whether a product in this dtype runs and agrees with float64 on the CPU. Raises RuntimeError where memory does not suffice to find out."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a_MK, b_NK = (torch.randn(rows, 96, dtype=torch.float64, generator=generator) for rows in (48, 80))
    dtype = getattr(torch, dtype_name)
    a_MK, b_NK = a_MK.to(dtype), b_NK.to(dtype)
    wanted_MN = a_MK.double() @ b_NK.double().T
    try:
        seen_MN = (a_MK.to(device) @ b_NK.to(device).T).cpu().double()
    except RuntimeError as error:  # what PyTorch raises where the dtype does not run
        if says_out_of_memory(error):
            raise
        return False
    return bool(((seen_MN - wanted_MN).norm() / wanted_MN.norm()) < DTYPES[dtype_name])


def gemm_table(dtype: torch.dtype, device: torch.device) -> list[Gemm]:
    """Speeds by shape, small shapes first; those that would not fit into the time are left out."""
    tokens, weights = (GPU_TOKENS, GPU_WEIGHTS) if device.type == "cuda" else (CPU_TOKENS, WEIGHTS)
    shapes = sorted(((m, k, n) for m in tokens for k, n in weights), key=math.prod)
    start_s, planned_s = time.perf_counter(), TABLE_BOX_S[device.type]
    gemms: list[Gemm] = []
    for index, (m, k, n) in enumerate(shapes):
        spent_s = time.perf_counter() - start_s
        expected_s = 2 * m * k * n / gemms[-1].flops_per_s if gemms else 0.0
        if spent_s + expected_s > MAX_TABLE_S[device.type]:
            break
        box_s = max(LEAST_BOX_S[device.type], (planned_s - spent_s) / (len(shapes) - index))
        gemms.append(Gemm(m=m, k=k, n=n, flops_per_s=gemm_flops_per_s(m, k, n, dtype=dtype, device=device, box_s=box_s)))
    return gemms


def gemm_flops_per_s(m: int, k: int, n: int, *, dtype: torch.dtype, device: torch.device, box_s: float) -> float:
    """Speed of x (m, k) times a layer's weight, stored (n, k), into memory that is there already."""
    import torch

    x_MK, w_NK, y_MN = (torch.full(shape, 0.01, dtype=dtype, device=device) for shape in ((m, k), (n, k), (m, n)))
    with torch.inference_mode():
        return round(2 * m * k * n / seconds_per_call(lambda: torch.mm(x_MK, w_NK.T, out=y_MN), device, box_s=box_s))


def typical_flops_per_s(speed: DtypeSpeed) -> float:
    """Geometric mean over the table."""
    return math.exp(sum(math.log(gemm.flops_per_s) for gemm in speed.gemms) / len(speed.gemms))


def measure_bandwidth(device: torch.device, *, usable_bytes: int) -> float:
    """Bytes per second of a = b + s * c on arrays beyond the caches (the triad of McCalpin's STREAM): two read, one written.

    Raises UserError where memory does not even suffice for that.
    """
    import torch

    elements = min(TRIAD_ELEMENTS[device.type], usable_bytes // 64)
    try:
        a, b, c = (torch.ones(elements, device=device) for _ in range(3))  # zeros would all be one page, in the cache
    except RuntimeError as error:
        raise no_memory(error) from None
    with torch.inference_mode():
        return round(3 * a.nbytes / seconds_per_call(lambda: torch.add(b, c, alpha=0.5, out=a), device, box_s=0.15))


def measure_launch_s(device: torch.device) -> float:
    """Seconds from one tiny operation to the next, issued one by one."""
    import torch

    x, y = torch.ones(16, device=device), torch.ones(16, device=device)
    with torch.inference_mode():
        return round(seconds_per_call(lambda: torch.add(x, y), device, box_s=0.06), 9)


def seconds_per_call(call: Callable[[], object], device: torch.device, *, box_s: float) -> float:
    """The fastest of several spans, each of as many calls as make it long enough, within about `box_s` seconds after the first call.

    On CUDA another call comes before all that: it loads the kernel, which takes as long as thousands of calls.
    """
    import torch

    def span(calls: int) -> float:
        start_s = time.perf_counter()
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start_s) / calls

    if device.type == "cuda":
        call()
        torch.cuda.synchronize(device)
    end_s = time.perf_counter() + box_s
    first_s = span(1)  # allocates and chooses kernels
    if time.perf_counter() + 0.5 * first_s > end_s:
        return first_s
    fastest_s = span(1)
    while time.perf_counter() < end_s:
        fastest_s = min(fastest_s, span(max(1, math.ceil(min(MIN_SPAN_S, box_s / 4) / fastest_s))))
    return fastest_s
