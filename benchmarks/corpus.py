"""Corpora for the benchmarks: the same for the same numbers, on every machine."""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

PROJECTS = 20
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)
MEDIAN_PDF_BYTES = 60_000


def uuid7(moment: datetime, number: int) -> str:
    """Make a UUIDv7 of a time and a number below 2**48."""
    milliseconds = int(moment.timestamp() * 1000)
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-{number:012x}"


def render_row(number: int, chance: random.Random) -> dict[str, object]:
    """Make a render as a row of Craftkit's table."""
    created = BEGAN + timedelta(seconds=7 * number)
    project = uuid7(BEGAN, chance.randrange(PROJECTS))
    render_id = uuid7(created, number)
    status = "succeeded" if chance.random() < 0.97 else "failed"
    return {
        "id": render_id,
        "project_id": project,
        "template_id": f"template-{chance.randrange(40)}",
        "template_version_id": None,
        "status": status,
        "input_data": {"invoice": f"R-{number:07}", "customer": chance.randrange(5000), "total": chance.random() * 900},
        "error_message": None if status == "succeeded" else "Navigation timeout of 30000 ms exceeded",
        "asset_key": f"renders/{project}/{render_id}.pdf" if status == "succeeded" else None,
        "started_at": _postgres(created + timedelta(milliseconds=120)),
        "created_at": _postgres(created),
        "completed_at": _postgres(created + timedelta(milliseconds=chance.randrange(300, 9000))),
    }


def _postgres(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "+00"


def write_renders(file: Path, count: int) -> None:
    """Write renders as NDJSON, about 525 bytes a line."""
    chance = random.Random(count)
    with file.open("w") as out:
        for number in range(count):
            out.write(json.dumps(render_row(number, chance)) + "\n")


def write_pdfs(bucket: Path, renders: Path) -> int:
    """Write a PDF for each succeeded render of a file, with sizes drawn log-normally, and return their bytes in all."""
    chance = random.Random(1)
    total = 0
    with renders.open() as lines:
        for line in lines:
            key = json.loads(line)["asset_key"]
            if key is None:
                continue
            size = int(min(chance.lognormvariate(math.log(MEDIAN_PDF_BYTES), 0.9), 20_000_000))
            path = bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pdf(key, size))
            total += path.stat().st_size
    return total


def pdf(text: str, size_bytes: int) -> bytes:
    """Write a whole PDF of one empty page that differs by its text, of about a size."""
    noise = random.Random(text).randbytes(size_bytes)
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(noise), noise),
    ]
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return bytes(out) + b"xref\n0 5\n0000000000 65535 f \n" + table + end
