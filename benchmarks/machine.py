"""What the figures were measured on."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.processes import ROOT

LIBRARIES = (
    "celery",
    "kombu",
    "sqlalchemy",
    "psycopg2-binary",
    "redis",
    "dramatiq",
    "procrastinate",
    "dbos",
    "psycopg",
)


def machine() -> dict[str, str]:
    return {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
    }


def libraries() -> dict[str, str]:
    return {"Python": sys.version.split()[0]} | {name: version(name) for name in LIBRARIES}


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def differences() -> list[str]:
    """Where this environment differs from requirements.lock: then it is not this service that is measured."""
    locked: dict[str, list[str]] = {}  # more than one where Python's version decides
    for name, wanted in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
        locked.setdefault(name, []).append(wanted)
    found = {name: _found(name) for name in locked}
    wrong = [name for name, wanted in locked.items() if found[name] not in (None, *wanted)]
    return [f"{name} {found[name]}, not {' or '.join(locked[name])}" for name in wrong]


def _found(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # a tool of the developers, which nothing here needs
