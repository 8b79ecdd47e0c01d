"""Memory of this process."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import psutil

# Words of errors that have no type of their own: of the CPU's allocator, CUDA, its libraries and Triton, and of the compiler around another error.
OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory"),
    *("CUDA error: out of memory", "CUDA driver error: out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA out of memory. Tried to allocate"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "Triton Error [CUDA]: out of memory"),
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no memory was left for the workspace of cuBLAS, which it takes with the first product
)


def says_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out."""
    return any(words in str(error) for words in OUT_OF_MEMORY)


def give_back_freed() -> None:
    """Hand freed memory back to the system, where the C library can: a hole of nearly the right size is not taken again, and would lie idle from then on."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # glibc has it, musl has not
        library.malloc_trim(0)


def process_memory_bytes() -> int:
    """What the process holds in memory now."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def peak_memory_bytes() -> int:
    """The most that the process held since its start. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
