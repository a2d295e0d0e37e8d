"""Where a result comes from: the header that every output file carries."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
"""Version of the output files' layout; raised when a reader of old files would be misled."""

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "optuna", "numpy", "opencv-python-headless", "onnx", "onnxruntime")


def commit_of(folder: Path) -> str | None:
    """The commit of the git checkout whose top is `folder`, with "-dirty" after local changes.

    Files git does not know do not count as changes. None without git, outside a checkout, deeper
    inside one (an installed copy is not the checkout around it) and before the first commit.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory, system and versions. Loads none of the packages it names."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name as the system gives it, such as 'AMD EPYC 7B13'."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def package_version(name: str) -> str | None:
    """Version of an installed package, None when it is not installed. Does not import it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def record_header(*, seed: int | None, data_hash: str | None) -> dict[str, Any]:
    """What every output file says about its making, ready for JSON.

    seed and data_hash are None where nothing was drawn and no data set was used.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": commit_of(CHECKOUT),
        "seed": seed,
        "data_hash": data_hash,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": describe_machine(),
    }
