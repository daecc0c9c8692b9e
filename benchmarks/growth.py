"""Measure how time and memory grow with the number of renders, as the table of docs/scale.md.

    python -m benchmarks.growth [--folder FOLDER] COUNT ...

Ten million take about an hour and 25 GB. Processor time is measured, because it says something on a busy machine too.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from benchmarks.corpus import write_renders
from benchmarks.peers import ours, run_process

BODY = b"%PDF-1.4\nstartxref\n0\n%%EOF\n"
NAMES_OF_A_FILE = 60_000  # ext4 allows 65,000
STORED = "INSERT INTO assets (render_id, key, size_bytes, sha256, stored_at) VALUES (?, ?, ?, ?, ?)"


def link_all(archive: Path, renders: Path) -> None:
    """Store a PDF for each succeeded render: names of a few files, because ten million files take 40 GB of blocks."""
    digest, folders, model = sha256(BODY).hexdigest(), set[Path](), archive / "model"

    def rows() -> Iterator[tuple[str, str, int, str, str]]:
        names = 0
        for line in lines:
            row = json.loads(line)
            if not row["asset_key"]:
                continue
            path = archive / "assets" / row["asset_key"]
            if path.parent not in folders:
                path.parent.mkdir(parents=True)
                folders.add(path.parent)
            if names % NAMES_OF_A_FILE == 0:
                model.unlink(missing_ok=True)
                model.write_bytes(BODY)
            os.link(model, path)
            names += 1
            yield row["id"], row["asset_key"], len(BODY), digest, "2026-06-01T00:00:00.000Z"

    with closing(sqlite3.connect(archive / "archive.db")) as db, db, renders.open() as lines:
        db.executemany(STORED, rows())
    model.unlink()


def rows_of(folder: Path, count: int) -> Iterator[str]:
    """Yield the table's rows for an archive of so many renders."""
    file, archive = folder / "renders.ndjson", folder / f"archive-{count}"
    write_renders(file, count)
    subprocess.run(ours(archive, "init"), check=True)
    commands: list[tuple[str | Path, ...]] = [
        ("import", "renders", file),
        ("verify", "--level", "size"),
        ("status",),
        ("renders", "list", "--limit", "50"),
        ("export", folder / "export.zip", "--dry-run"),
        ("seal",),
    ]
    for words in commands:
        usage = run_process(ours(archive, *words))
        seconds, cpu, peak = usage.seconds, usage.cpu_seconds, f"{usage.peak_mb:.0f}" if usage.peak_mb else ""
        name = " ".join(str(word) for word in words if not isinstance(word, Path))
        yield f"| `{name}` | {count:,} | {seconds:.1f} | {cpu:.1f} | {1e6 * cpu / count:.1f} | {peak} |"
        if words[0] == "import":
            link_all(archive, file)
            file.unlink()
    size = sum(found.stat().st_size for found in archive.glob("archive.db*"))
    yield f"| the catalog | {count:,} | {size / 1e6:,.0f} MB, {size / count:.0f} B a render | | | |"
    shutil.rmtree(archive)


def main() -> None:
    """Print the rows as they are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--folder", type=Path, help="where the archives are made, for a while")
    given = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print("| | renders | s | CPU s | CPU µs a render | peak MB |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="craftkit-growth-", dir=given.folder) as name:
        for count in given.counts:
            for row in rows_of(Path(name), count):
                print(row, flush=True)


if __name__ == "__main__":
    main()
