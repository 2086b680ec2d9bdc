"""The largest memory of one piece of work, in a process that has done others before.

The system keeps one high-water mark per process. Where it can be set back (Linux), it is when the
work starts; elsewhere the mark says something about the work only if the work raised it. What was
loaded before, such as a shared model, is in the peak either way: `start_rss_gib` says how much.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

_GIB = 2**30
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_rss_gib() -> float:
    """Return the largest resident memory of this process in GiB, since a `PeakMemory` if any."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (_GIB if sys.platform == "darwin" else 2**20)


class PeakMemory:
    """Measures from here on; one at a time in a process."""

    def __init__(self) -> None:
        self._own = _set_back()
        self._start = _status_gib("VmRSS")
        self._before = peak_rss_gib()
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)

    def found(self) -> dict[str, float | None]:
        """Return GiB by name.

        Returns:
            `peak_rss_gib`, None where the process was larger before and its mark could not be set
            back; `start_rss_gib`, None where the system does not say; `peak_gpu_gib` of the device
            that took most, where CUDA was used.
        """
        peak = peak_rss_gib()
        own = _status_gib("VmHWM") if self._own else peak if peak > self._before else None
        found = {"peak_rss_gib": own, "start_rss_gib": self._start}
        if cuda := _cuda():
            peaks = [cuda.max_memory_allocated(device) for device in range(cuda.device_count())]
            found["peak_gpu_gib"] = max(peaks) / _GIB
        return {name: None if value is None else round(value, 3) for name, value in found.items()}


def _set_back() -> bool:
    """Set the high-water mark of this process to what it holds now, where the system can."""
    try:
        _CLEAR.write_text("5")  # see proc(5); other digits clear other things
    except OSError:
        return False
    return _status_gib("VmHWM") is not None


def _status_gib(field: str) -> float | None:
    """Read a field of this process's status; None where there is no such thing."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**20
    return None


def _cuda() -> ModuleType | None:
    """Return torch.cuda if this process uses it; torch is never imported for this."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
