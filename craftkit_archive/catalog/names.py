"""Names that begin as somebody types them in a shell: of projects, runs and keys, without opening the archive.

The catalog is read as it lies there, within a fraction of a second. Where anything keeps it from being read, there are
no names.
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
_LOOK_STEPS = 1000  # of SQLite's own machine, between two looks at the clock

# Each gives a name and a word on it. `?1` is what was typed so far.
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
    """Return names of the first of these kinds that has any, each with a few words on it; none if anything is wrong.

    Args:
        catalog: The SQLite file, which is neither changed nor waited for.
        typed: How they begin.
        kinds: What they may be the names of.
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
    if not catalog.is_file():  # a pipe of that name would be waited for
        raise FileNotFoundError(catalog)
    log = catalog.with_name(f"{catalog.name}-wal")
    # Without a log, SQLite would make one and its index beside the file, only to read it.
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"file:{quote(str(catalog))}?{how}", uri=True, timeout=PATIENCE_SECONDS / 3)
    deadline = time.monotonic() + PATIENCE_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _LOOK_STEPS)
    return connection
