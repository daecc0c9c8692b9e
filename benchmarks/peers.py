"""The programs that are timed: ours, and where to find the others."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """What a process used: seconds, those of the processor, and the peak of its largest process, 0 if not known."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run_process(command: Sequence[str]) -> Usage:
    """Run a command to its end.

    Raises:
        SystemExit: It failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    problem = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {problem}")
    # A new process counts the memory of the one that started it, until it runs its own program.
    known = usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000 if known else 0.0)


def program(name: str) -> str | None:
    """Find a program beside this Python, or on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def version_of(*command: str) -> str:
    """Ask a program for its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"v?\d+\.\d[\w.+-]*", done.stdout or done.stderr)
    return found[0] if found else ""


def ours(archive: Path, *words: str | Path) -> list[str]:
    """Return a command line of ours."""
    executable = program("craftkit-archive")
    assert executable is not None, "pip install -e '.[bench]' first"
    return [executable, "--quiet", "--archive", str(archive), *map(str, words)]
