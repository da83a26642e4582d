"""What a stage ran on: interpreter, packages, processor, device, threads, memory. Goes into each manifest.

Nothing here names a user, a host or a path outside the project: manifests are shared.
"""

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("embedkit", "tensorflow", "keras", "keras-hub", "transformers", "tokenizers", "faiss-cpu", "datasets", "pyarrow"),
    *("numpy", "scikit-learn", "pillow", "prefect"),
)

COMPUTING = (
    *("embedkit", "tensorflow", "keras", "keras-hub", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "faiss-cpu"),
    *("pyarrow", "datasets", "pillow", "openvino", "nncf", "onnx", "onnxruntime", "tf2onnx", "ai-edge-litert"),
)
"""Packages whose version may decide a result, down to its last digits."""
KERNELS = frozenset(("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16"))
"""What a processor has, or not, by which libraries choose how they add up."""


def computing(keras: bool) -> dict[str, str]:
    """What decides the last digits of a result here, by name: versions, and kinds of processor and devices.

    Args:
        keras: whether TensorFlow computes, whose devices count then.
    """
    found = {name: version for name in COMPUTING if (version := package_version(name))}
    found |= {"python": platform.python_version(), "processor": " ".join([platform.machine(), *sorted(KERNELS & flags())])}
    return found | ({"device": _device(), "devices": _devices()} if keras else {})


@functools.cache
def flags() -> frozenset[str]:
    """What the processor says that it has; nothing where that can't be asked."""
    try:
        line = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        line = None
    return frozenset(line[1].split() if line else ())


def _devices() -> str:
    """How many devices there are to share a batch; TensorFlow is loaded."""
    devices = sys.modules["tensorflow"].config.list_logical_devices
    return str(len(devices("GPU") or devices("CPU")))


def environment() -> dict[str, Any]:
    """The facts that a reader needs to make an artifact again; all values plain JSON."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": _device(),
        "commit": _commit(),
    }


def package_version(name: str) -> str | None:
    """Version of an installed distribution, None where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _device() -> str:
    tensorflow = sys.modules.get("tensorflow")  # importing it costs seconds, and a stage without it computes on the processor
    gpus = tensorflow.config.list_physical_devices("GPU") if tensorflow else []
    if not tensorflow or not gpus:
        return "cpu"
    return ", ".join(tensorflow.config.experimental.get_device_details(gpu).get("device_name", "gpu") for gpu in gpus)


@functools.cache
def _commit() -> str | None:
    """Commit of the checkout embedkit runs from, `-dirty` when it was changed; None for an installed package."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


_highest = [0]
"""Highest resident memory seen: since the last reset, and then in each block of `peak_of` that was entered and not left."""


def reset_peak_memory() -> None:
    """Start measuring the peak anew, where the kernel allows (Linux: proc(5), clear_refs); elsewhere the peak is the process's."""
    _see()
    _highest[0] = 0
    _clear()


def _see() -> None:
    """Take note of the kernel's count before it begins anew."""
    peak = _peak()
    _highest[:] = [max(highest, peak) for highest in _highest]


def _clear() -> None:
    try:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    except OSError:
        return


def memory_bytes() -> int | None:
    """Memory of this machine; None where nobody says."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, macOS not all of its names
        return None


def peak_memory_bytes() -> int:
    """Highest resident memory of this process since the last reset."""
    return max(_highest[0], _peak())


@contextlib.contextmanager
def peak_of() -> Iterator[Callable[[], int]]:
    """Measure the peak of a block by itself; what is measured around it goes on.

    Yields:
        A function that gives, after the block, its highest resident memory in bytes.
    """
    _see()
    _highest.append(0)
    _clear()
    found = [0]
    try:
        yield lambda: found[0]
    finally:
        _see()
        found[0] = _highest.pop()


def _peak() -> int:
    try:
        match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match.group(1)) * 1024
    try:
        import resource
    except ImportError:  # Windows has none, and nothing else that says it
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, the others in KiB
