"""The machine in a few lines for people."""

from __future__ import annotations

from pufferfish.base.units import format_bytes
from pufferfish.probe.measure import typical_flops_per_s
from pufferfish.schema.hardware import Hardware


def describe(hardware: Hardware) -> list[str]:
    """What it is, what of it is used, and how fast it is in each dtype."""
    fingerprint, measured = hardware.fingerprint, hardware.measured
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16") if flag in fingerprint.cpu_flags]
    cores = f"{fingerprint.num_cores} core{'s' * (fingerprint.num_cores != 1)}"
    lines = [f"machine    {fingerprint.cpu}{' with ' + ' '.join(flags) if flags else ''}, {cores}, {format_bytes(fingerprint.memory_bytes)}"]
    for gpu in fingerprint.gpus:
        lines.append(f"           {gpu.name}, {format_bytes(gpu.memory_bytes)}, compute capability {gpu.compute_capability}, driver {gpu.driver}")
    device = "the NVIDIA device" if len(fingerprint.gpus) == 1 else f"the first of {len(fingerprint.gpus)} NVIDIA devices"
    used = device if fingerprint.device == "cuda" else f"the CPU with {fingerprint.num_threads} threads"
    lines.append(f"uses       {used}, {format_bytes(hardware.usable_memory_bytes)} of memory, PyTorch {fingerprint.torch}")
    for speed in measured.dtypes:
        speeds = sorted(gemm.flops_per_s / 1e9 for gemm in speed.gemms)
        lines.append(f"{speed.dtype:<10} {typical_flops_per_s(speed) / 1e9:,.0f} GFLOP/s ({speeds[0]:,.0f} to {speeds[-1]:,.0f} by shape)")
    compiler = "a compiler" if measured.has_compiler else "no compiler, so no torch.compile"
    launch, disk = measured.launch_s * 1e6, format_bytes(measured.disk_write_bytes_per_s)
    lines.append(f"memory     {measured.bandwidth_bytes_per_s / 1e9:,.0f} GB/s; launch {launch:.1f} µs; disk {disk}/s; {compiler}")
    return lines
