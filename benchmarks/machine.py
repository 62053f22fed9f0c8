"""What every benchmark says about the machine and the versions, and how it measures a process."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

# The shared corpus of real pairs; see the README for what it must hold.
DATA = Path(os.environ.get("LODE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def describe(packages: Sequence[str]) -> str:
    """Return one markdown line: processor, cores, memory, Python and the packages' versions."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, "
        f"{versions}; {time.strftime('%Y-%m-%d')}"
    )


def run_measured(command: Sequence[str]) -> tuple[float, float, float]:
    """Run a command; return wall seconds, CPU seconds and peak GiB of its largest process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # ru_maxrss is a high-water mark over all children so far: run the largest question alone.
    return wall_s, cpu_s, after.ru_maxrss / 2**20
