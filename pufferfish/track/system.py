"""How busy the machine is while the work runs, as MLflow's system metrics."""

from __future__ import annotations

import psutil

MEGABYTE = 1e6


class SystemSampler:
    """Samples of one process and its machine."""

    def __init__(self, pid: int) -> None:
        """Raises psutil.Error where the process has ended."""
        self._process = psutil.Process(pid)
        self._process.cpu_percent()
        psutil.cpu_percent()
        self._gpus = _gpus()

    def sample(self) -> dict[str, float]:
        """Metrics since the last call; empty when the process has ended. Percent of one core for the process, of all cores for the machine."""
        try:
            process_percent, resident_bytes = self._process.cpu_percent(), self._process.memory_info().rss
        except psutil.Error:
            return {}
        values = {
            "system/process_cpu_percentage": process_percent,
            "system/process_memory_megabytes": resident_bytes / MEGABYTE,
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
        }
        return values | self._sample_gpus()

    def _sample_gpus(self) -> dict[str, float]:
        if not self._gpus:
            return {}
        import pynvml

        values = {}
        for index, gpu in enumerate(self._gpus):
            try:
                values[f"system/gpu_{index}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
                values[f"system/gpu_{index}_memory_usage_megabytes"] = pynvml.nvmlDeviceGetMemoryInfo(gpu).used / MEGABYTE
                values[f"system/gpu_{index}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
            except pynvml.NVMLError:  # not every device, partition or container tells everything
                continue
        return values


def _gpus() -> list[object]:
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
