"""Machines by their data sheets: enough to ask what one would be worth. What is known of a machine is what its own probe measures.

Sources: NVIDIA's data sheets and architecture papers. Arithmetic is without sparsity, with sums in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from pufferfish.probe.measure import CPU_TOKENS, GPU_TOKENS, GPU_WEIGHTS, WEIGHTS
from pufferfish.schema.hardware import DtypeSpeed, Fingerprint, Gemm, Gpu, Hardware, Measured

# Of what a data sheet promises. Two cores of a Zen 3 reach 0.76 to 0.8 of their arithmetic (docs/LOG.md); for the rest, guesses.
REACHED, STREAMED = 0.75, 0.85
LAUNCH_S = {"cpu": 1e-6, "cuda": 5e-6}
HOST = "a host as usual"  # of a device: nothing is known of it
HOST_CORES, HOST_BYTES = 8, 32 * 2**30
IMPORT_TORCH_S, DISK_BYTES_PER_S = 3.0, 5e8
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Sheet:
    """What a data sheet says."""

    name: str
    memory_gib: int  # that programs find: less than is sold, where some of it checks the rest
    bandwidth_bytes_per_s: float
    flops_per_s: dict[str, float]  # by dtype, the fastest first
    compute_capability: str = ""  # of an NVIDIA device; empty for a processor
    num_cores: int = HOST_CORES

    @property
    def device(self) -> str:
        """What computes."""
        return "cuda" if self.compute_capability else "cpu"


SHEETS = {
    "laptop": Sheet("4 cores with AVX2 at 3 GHz", 15, 5.12e10, {"float32": 3.84e11}, num_cores=4),  # 32 operations a cycle; two channels of DDR4-3200
    "gtx-1650": Sheet("NVIDIA GeForce GTX 1650", 4, 1.28e11, {"float16": 6.0e12, "float32": 3.0e12}, "7.5"),
    "t4": Sheet("NVIDIA T4", 15, 3.2e11, {"float16": 6.5e13, "float32": 8.1e12}, "7.5"),
    "rtx-3060": Sheet("NVIDIA GeForce RTX 3060", 12, 3.6e11, {"bfloat16": 2.55e13, "float32": 1.27e13}, "8.6"),
    "rtx-3090": Sheet("NVIDIA GeForce RTX 3090", 24, 9.36e11, {"bfloat16": 7.1e13, "float32": 3.56e13}, "8.6"),
    "rtx-4060": Sheet("NVIDIA GeForce RTX 4060", 8, 2.72e11, {"bfloat16": 3.02e13, "float32": 1.51e13}, "8.9"),
    "rtx-4090": Sheet("NVIDIA GeForce RTX 4090", 24, 1.008e12, {"bfloat16": 1.652e14, "float32": 8.26e13}, "8.9"),
    "l4": Sheet("NVIDIA L4", 22, 3.0e11, {"bfloat16": 1.21e14, "float32": 3.03e13}, "8.9"),
    "a100": Sheet("NVIDIA A100 SXM", 79, 2.039e12, {"bfloat16": 3.12e14, "float32": 1.95e13}, "8.0"),
    "h100": Sheet("NVIDIA H100 SXM", 79, 3.35e12, {"bfloat16": 9.89e14, "float32": 6.7e13}, "9.0"),
    "h200": Sheet("NVIDIA H200 SXM", 140, 4.8e12, {"bfloat16": 9.89e14, "float32": 6.7e13}, "9.0"),
}


def machine_of(sheet: Sheet) -> Hardware:
    """What a probe might find."""
    memory_bytes, name = sheet.memory_gib * 2**30, f"{sheet.name} (by its data sheet)"
    gpus = [Gpu(name=name, compute_capability=sheet.compute_capability, memory_bytes=memory_bytes, driver="")] if sheet.compute_capability else []
    fingerprint = Fingerprint(
        system="Linux",
        python="",
        torch="",
        cpu=HOST if gpus else name,
        cpu_flags=[],
        num_cores=sheet.num_cores,
        memory_bytes=HOST_BYTES if gpus else memory_bytes,
        gpus=gpus,
        device=sheet.device,
        num_threads=sheet.num_cores,
    )
    measured = Measured(
        dtypes=[DtypeSpeed(dtype=dtype, gemms=_gemms(sheet, dtype)) for dtype in sheet.flops_per_s],
        bandwidth_bytes_per_s=STREAMED * sheet.bandwidth_bytes_per_s,
        launch_s=LAUNCH_S[sheet.device],
        disk_write_bytes_per_s=DISK_BYTES_PER_S,
        import_torch_s=IMPORT_TORCH_S,
        has_compiler=True,
    )
    return Hardware(fingerprint=fingerprint, measured=measured, usable_memory_bytes=memory_bytes)


def _gemms(sheet: Sheet, dtype: str) -> list[Gemm]:
    tokens, weights = (GPU_TOKENS, GPU_WEIGHTS) if sheet.compute_capability else (CPU_TOKENS, WEIGHTS)
    return [Gemm(m=m, k=k, n=n, flops_per_s=2 * m * k * n / _gemm_s(sheet, dtype, m, k, n)) for m in tokens for k, n in weights]


def _gemm_s(sheet: Sheet, dtype: str, m: int, k: int, n: int) -> float:
    """Of (m, k) @ (k, n), which either computes or moves, after its launch."""
    computing_s = 2 * m * k * n / (REACHED * sheet.flops_per_s[dtype])
    moving_s = ELEMENT_BYTES[dtype] * (m * k + k * n + m * n) / (STREAMED * sheet.bandwidth_bytes_per_s)
    return LAUNCH_S[sheet.device] + max(computing_s, moving_s)
