"""Time craftkit-archive and its peers in turn, as whole processes, and print medians and ratios.

    python -m benchmarks.run [--full] [--case NAME] [--rounds N] [--write FILE]

An absolute time says little on a machine that others share: only what ran in turn in one run is compared.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import serving
from benchmarks.corpus import write_pdfs, write_renders
from benchmarks.peers import ours, program, version_of

RESULTS = "<!-- results -->"
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


@dataclass
class Contender:
    """A command that is timed; `before` is run, untimed, before each time."""

    name: str
    command: list[str]
    before: Callable[[], object] = lambda: None
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


def time_once(contender: Contender) -> None:
    """Run a contender once, and note its seconds and the peak memory of its largest process."""
    contender.before()
    began = time.perf_counter()
    process = subprocess.Popen(contender.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    problem = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    contender.seconds.append(time.perf_counter() - began)
    contender.peak_mb = max(contender.peak_mb, usage.ru_maxrss / 1000)
    if process.returncode:
        raise SystemExit(f"{contender.name} ended with {process.returncode}: {problem}")


def fresh(archive: Path) -> Callable[[], object]:
    """Return what makes an archive anew."""

    def make() -> None:
        shutil.rmtree(archive, ignore_errors=True)
        subprocess.run(ours(archive, "init"), check=True)

    return make


def import_case(folder: Path, count: int, *, peers: bool = True) -> Case:
    """Import renders as NDJSON: the first time, and again."""
    file, archive, database = folder / f"renders-{count}.ndjson", folder / "archive", folder / "peer.db"
    write_renders(file, count)
    contenders = [
        Contender("craftkit-archive import", ours(archive, "import", "renders", file), fresh(archive)),
        Contender("craftkit-archive import, again", ours(archive, "import", "renders", file)),
    ]
    if peers:

        def unlink() -> None:
            database.unlink(missing_ok=True)

        peer = program("sqlite-utils") or "sqlite-utils"
        contenders += [
            Contender(
                "sqlite-utils insert --nl --pk id",
                [peer, "insert", "--silent", str(database), "renders", str(file), "--nl", "--pk", "id"],
                unlink,
                version_of(peer, "--version"),
            ),
            Contender(
                "json.loads and executemany, nothing checked",
                [sys.executable, "-c", BARE_INSERT, str(database), str(file)],
                unlink,
                platform.python_version(),
            ),
        ]
    return Case(f"Import of {count:,} renders", count, "rows", contenders)


def verify_case(folder: Path, count: int) -> Case:
    """Read every byte of an archive and compare it with its digest; page cache warm."""
    file, archive, bucket = folder / "pdfs.ndjson", folder / "stored", folder / "bucket"
    write_renders(file, count)
    size = write_pdfs(bucket, file)
    fresh(archive)()
    for words in (("import", "renders", file), ("fetch", bucket), ("export", folder / "out")):
        subprocess.run(ours(archive, *words), check=True)
    contenders = [Contender("craftkit-archive verify", ours(archive, "verify"))]
    if program("sha256sum"):
        check = f"cd {folder / 'out'} && sha256sum --check --quiet manifest-sha256.txt"
        version = version_of("sha256sum", "--version")
        contenders.append(Contender("sha256sum --check", ["sh", "-c", check], version=version))
    else:
        contenders.append(Contender("sha256sum --check", []))
    stored = sum(1 for _ in (archive / "assets/renders").rglob("*.pdf"))
    return Case(f"Verify {stored:,} PDFs ({size / 1e9:.2f} GB)", stored, "PDFs", contenders)


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
            f" | {contender.peak_mb:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the cases and print or write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="a large corpus; takes some twenty minutes")
    parser.add_argument("--case", choices=["import", "scale", "verify", "serve"], action="append", help="only this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="put the tables into this file, in place of the last ones")
    given = parser.parse_args()
    wanted = given.case or ["import", "scale", "verify", "serve"]
    with tempfile.TemporaryDirectory(prefix="craftkit-bench-") as name:
        folder = Path(name)
        cases: list[Callable[[], Case]] = []
        if "import" in wanted:
            cases.append(lambda: import_case(folder, 300_000 if given.full else 50_000))
        if "scale" in wanted:
            cases += [
                lambda: import_case(folder, 100_000 if given.full else 20_000, peers=False),
                lambda: import_case(folder, 1_000_000 if given.full else 200_000, peers=False),
            ]
        if "verify" in wanted:
            cases.append(lambda: verify_case(folder, 20_000 if given.full else 2_000))
        tables = []
        for make in cases:
            case = make()
            for _ in range(given.rounds):
                for contender in case.contenders:
                    if contender.command:
                        time_once(contender)
            tables.append(table(case))
            print(tables[-1], flush=True)
        if "serve" in wanted:
            count, seconds = (5_000, 10) if given.full else (1_000, 3)
            tables.append(serving.measure(folder, count, rounds=given.rounds, seconds=seconds))
            print(tables[-1], flush=True)
    if given.write:
        head = given.write.read_text().split(RESULTS)[0]
        machine = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} processors"
        when = f"Run on {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {machine}."
        rounds = f"Medians of {given.rounds} rounds in turn; peak memory is that of the largest process."
        given.write.write_text(f"{head}{RESULTS}\n\n{when} {rounds}\n\n" + "\n".join(tables))


if __name__ == "__main__":
    main()
