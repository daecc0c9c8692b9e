"""Small worlds for tests: PDFs, metadata in upstream's shapes, filled archives, live servers, commands."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import pytest
from bottle import Bottle

from craftkit_archive.archive import Archive
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.importer.run import import_records
from craftkit_archive.records import Kind, Record, Summary
from server.access_log import AccessLog
from server.app import Service, Settings
from server.http import Server
from server.serve import DEFAULT_THREADS, GRACE_SECONDS, listen, url_of

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "data" / "sample"

NORTHWIND = "01900000-0000-7000-8000-00000000000a"
SOUTHWIND = "01900000-0000-7000-8000-00000000000b"
GONE = "01900000-0000-7000-8000-00000000000c"

LIVE_KEY = "ck_live_SAMPLEnorthwind0001"
TEST_KEY = "ck_test_SAMPLEnorthwind0002"
REVOKED_KEY = "ck_live_SAMPLErevoked00003"
OTHER_KEY = "ck_live_SAMPLEsouthwind0004"
GONE_KEY = "ck_live_SAMPLEgone00000005"
STATUSES = ("queued", "rendering", "succeeded", "failed", "cancelled")


def pdf(text: str = "", *, size_bytes: int = 0) -> bytes:
    """Write a small, whole PDF that differs by its text; padded with a comment to about `size_bytes`."""
    content = b"BT /F1 12 Tf 20 20 Td (" + text.encode("ascii", "replace") + b") Tj ET"
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    out = b"%PDF-1.4\n"
    if size_bytes:
        out += b"%" + (sha256(text.encode()).hexdigest().encode() * (size_bytes // 64 + 1))[:size_bytes] + b"\n"
    offsets = []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(bodies) + 1, table, trailer)


def render_id(number: int) -> str:
    """Return the id of a render: a UUIDv7, as upstream makes them."""
    return f"019c0000-0000-7000-8000-{number:012d}"


def render(number: int, *, project_id: str = NORTHWIND, **fields: Any) -> dict[str, Any]:
    """Return a render as a row of upstream's table."""
    key = f"renders/{project_id}/{render_id(number)}.pdf"
    row = {
        "id": render_id(number),
        "project_id": project_id,
        "template_id": "invoice",
        "status": "succeeded",
        "error_message": None,
        "asset_key": key,
        "created_at": "2026-06-05 10:00:00.12+00",
        "completed_at": "2026-06-05 10:00:03.12+00",
        "input_data": {"number": number},
    }
    return row | fields


def projects() -> list[dict[str, Any]]:
    """Return three projects, of which the last is deleted."""
    made = "2026-01-01T00:00:00.000Z"
    return [
        {"id": NORTHWIND, "user_id": "u1", "name": "Northwind", "slug": "northwind", "created_at": made},
        {"id": SOUTHWIND, "user_id": "u1", "name": "Southwind", "slug": "southwind", "created_at": made},
        {"id": GONE, "user_id": "u2", "name": "Gone", "slug": "gone", "created_at": made, "deleted_at": made},
    ]


def keys() -> list[dict[str, Any]]:
    """Return keys of all kinds: hashed and plain, live and test, one revoked, one of a deleted project."""

    def row(key_id: str, project_id: str, key: str, **more: Any) -> dict[str, Any]:
        hashed = sha256(key.encode()).hexdigest()
        return {"id": key_id, "project_id": project_id, "prefix": key[:12], "key_hash": hashed} | more

    return [
        row("key-1", NORTHWIND, LIVE_KEY),
        {"id": "key-2", "projectId": NORTHWIND, "name": "test", "key": TEST_KEY},
        row("key-3", NORTHWIND, REVOKED_KEY, revoked_at="2026-02-01T00:00:00Z"),
        row("key-4", SOUTHWIND, OTHER_KEY),
        row("key-5", GONE, GONE_KEY),
    ]


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file."""
    path.write_text(json.dumps(value))
    return path


def write_ndjson(path: Path, records: list[Any]) -> Path:
    """Write one JSON value a line."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def put(bucket: Path, key: str, body: bytes) -> Path:
    """Put an object into a folder that mirrors a bucket."""
    path = bucket / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def summary_of(records: Iterator[Record]) -> Summary:
    """Run an operation to its end and return how it ended."""
    last = list(records)[-1]
    assert isinstance(last, Summary)
    return last


def load(archive: Archive, folder: Path, kind: Kind, records: list[Any]) -> Summary:
    """Import records through a file."""
    return summary_of(import_records(archive, kind, [str(write_ndjson(folder / f"{kind}.ndjson", records))]))


@dataclass
class World:
    """A filled archive and the bucket that it was filled from."""

    archive: Archive
    bucket: Path
    folder: Path

    def asset(self, number: int) -> Path:
        """Return the stored file of a render."""
        return Path(self.archive.store.address, render(number)["asset_key"])


def fill(folder: Path, *, count: int = 5, size_bytes: int = 0) -> World:
    """Make an archive with projects, keys, and `count` fetched renders of the first project."""
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    bucket = folder / "bucket"
    rows = [render(number) for number in range(count)]
    for number, row in enumerate(rows):
        put(bucket, row["asset_key"], pdf(f"render {number}", size_bytes=size_bytes))
    archive = Archive.create(folder / "archive")
    load(archive, folder, "projects", projects())
    load(archive, folder, "keys", keys())
    load(archive, folder, "renders", rows)
    assert summary_of(fetch_assets(archive, str(bucket))).counts["copied"] == count
    return World(archive, bucket, folder)


@contextmanager
def running(
    app: Bottle, listener: socket.socket, *, threads: int = DEFAULT_THREADS, access_log: AccessLog | None = None
) -> Iterator[Server]:
    """Serve in a thread of this process while the block runs; at its end, requests under way are finished."""
    server = Server(app, [listener], threads=threads, observers=[access_log.observe] if access_log else [])
    loop = Thread(target=server.run, name="connections")
    loop.start()
    try:
        yield server
    finally:
        server.end(GRACE_SECONDS)
        loop.join()


@contextmanager
def live(archive: Archive, settings: Settings | None = None) -> Iterator[str]:
    """Serve an archive on a free port of the loopback, and give the URL."""
    listener = listen("127.0.0.1:0")
    with running(Service(archive, settings).app, listener):
        yield url_of(listener)


@dataclass
class Done:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def program(*words: str | Path, archive: Path | None = None, before: str = "") -> list[str]:
    """Return the command line of craftkit-archive; `before` is Python to run first."""
    where = ["--archive", str(archive)] if archive else []
    return [sys.executable, "-c", f"import cli\n{before}\ncli.main()", *where, *map(str, words)]


def peak_kib(*words: str | Path, archive: Path) -> int:
    """Run craftkit-archive and return the most memory that it or a worker of it had, in KiB.

    The process reports it itself: Linux counts into `ru_maxrss` what the process that started it had in memory.
    """
    report = (
        "import atexit, pathlib, resource, sys\n"
        "def report():\n"
        "    own = int(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "    print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), file=sys.stderr)\n"
        "atexit.register(report)"
    )
    line = program(*words, archive=archive, before=report)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1])


def command(
    *words: str | Path, archive: Path | None = None, stdin: bytes = b"", env: dict[str, str] | None = None
) -> Done:
    """Run craftkit-archive as a process of its own."""
    done = subprocess.run(
        program(*words, archive=archive),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "", **(env or {})},
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def needs(program: str) -> str:
    """Return the path of a program that a test is about, or skip the test for want of it."""
    return shutil.which(program) or lack(f"the program {program}")


def lack(what: str) -> NoReturn:
    """Skip a test for want of something; where everything is to be had, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")
