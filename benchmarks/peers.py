"""The programs that are timed: ours, and where to find the others."""

import re
import shutil
import subprocess
import sys
from pathlib import Path


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
