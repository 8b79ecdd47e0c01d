"""artifacts/hardware.json: what the machine is and how fast it is; artifacts/corpus.json: which text there is."""

from __future__ import annotations

from typing import ClassVar

from pufferfish.schema.artifact import Artifact, Strict


class Gpu(Strict):
    """One NVIDIA device, as NVML reports it."""

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str


class Fingerprint(Strict):
    """Cheap facts that name the machine; speeds are measured once for each fingerprint."""

    system: str
    python: str
    torch: str
    cpu: str
    cpu_flags: list[str]  # those that change the speed of matrix products
    num_cores: int  # that this process may use
    memory_bytes: int  # that this process may use: the machine's, or its cgroup's
    gpus: list[Gpu]
    device: str  # chosen: cpu or cuda
    num_threads: int


class Gemm(Strict):
    """Speed of one matrix product (m, k) @ (k, n)."""

    m: int
    k: int
    n: int
    flops_per_s: float


class DtypeSpeed(Strict):
    """One dtype that really runs on the device."""

    dtype: str
    gemms: list[Gemm]


class Measured(Strict):
    """Speeds of the chosen device."""

    dtypes: list[DtypeSpeed]  # fastest first
    bandwidth_bytes_per_s: float  # streaming read and write, a = b + s * c
    launch_s: float  # one tiny operation, issued eagerly
    disk_write_bytes_per_s: float  # flushed to the disk
    import_torch_s: float  # start of an interpreter with torch
    has_compiler: bool  # torch.compile can work here


class Hardware(Artifact):
    """The machine. The same machine gives the same bytes."""

    SCHEMA_VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "hardware-probe"

    fingerprint: Fingerprint
    measured: Measured
    usable_memory_bytes: int  # of the chosen device, after the cap in params.yaml


class Corpus(Artifact):
    """Which text there is: found out each time, so that changed data is noticed without reading it in later stages."""

    SCHEMA_VERSION: ClassVar[int] = 2
    MADE_BY: ClassVar[str] = "hardware-probe"

    source: str
    path: str
    content: str  # digest of the text
    num_bytes: int
    num_files: int
    has_short_documents: bool  # so many that reading takes long
    validation_path: str  # empty: documents are held back
    validation_content: str
    validation_bytes: int
