"""Completion in a shell: names of projects, runs and keys that begin with what was typed.

The catalog is read without opening the archive, within a fraction of a second. If anything prevents that, there are no
names.
"""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal
from urllib.parse import quote

NameKind = Literal["projects", "project-ids", "runs", "verifications", "commands", "keys"]
MOST = 100
PATIENCE_SECONDS = 0.3
_LOOK_STEPS = 1000  # instructions of SQLite's virtual machine between two looks at the clock

# Each query gives names with a short description. `?1` is what was typed so far.
_RUNS = (
    "SELECT CAST(id AS TEXT), command || ' ' || substr(started_at, 1, 10) || ' ' || substr(started_at, 12, 5)"
    " || ' ' || COALESCE(outcome, 'not ended') FROM runs WHERE substr(id, 1, length(?1)) = ?1 {of} ORDER BY id DESC"
)
_QUESTIONS: dict[NameKind, str] = {
    "projects": (
        "SELECT slug, name FROM projects WHERE substr(slug, 1, length(?1)) = ?1 ORDER BY deleted_at IS NOT NULL, 1"
    ),
    "project-ids": "SELECT id, COALESCE(slug, name) FROM projects WHERE substr(id, 1, length(?1)) = ?1 ORDER BY 1",
    "runs": _RUNS.format(of=""),
    "verifications": _RUNS.format(of="AND command = 'verify'"),
    "commands": "SELECT DISTINCT command, '' FROM runs WHERE substr(command, 1, length(?1)) = ?1 ORDER BY 1",
    "keys": (
        "SELECT k.id, COALESCE(k.prefix || ' ', '') || COALESCE(k.name, p.slug, '') FROM api_keys AS k"
        " LEFT JOIN projects AS p ON p.id = k.project_id"
        " WHERE k.revoked_at IS NULL AND substr(k.id, 1, length(?1)) = ?1 ORDER BY 1"
    ),
}


def names_that_begin(catalog: Path, typed: str, kinds: Sequence[NameKind]) -> list[tuple[str, str]]:
    """Return `(name, description)` for the first of these kinds with a match; an empty list if anything goes wrong.

    Args:
        catalog: The SQLite file. It is never changed, and a lock on it is waited for only `PATIENCE_SECONDS`.
        typed: What the names begin with.
        kinds: The kinds of names to try, in order.
    """
    try:
        with closing(_open(catalog)) as connection:
            for kind in kinds:
                found = connection.execute(f"{_QUESTIONS[kind]} LIMIT {MOST}", (typed,)).fetchall()
                names = [(str(name), str(words or "")) for name, words in found if name and str(name).isprintable()]
                if names:
                    return names
    except (sqlite3.Error, OSError, ValueError):
        pass
    return []


def _open(catalog: Path) -> sqlite3.Connection:
    if not catalog.is_file():  # opening a pipe would block
        raise FileNotFoundError(catalog)
    log = catalog.with_name(f"{catalog.name}-wal")
    # Without a log, SQLite would create one and its index beside the file just to read; `immutable` prevents that.
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"file:{quote(str(catalog))}?{how}", uri=True, timeout=PATIENCE_SECONDS / 3)
    deadline = time.monotonic() + PATIENCE_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _LOOK_STEPS)
    return connection
