"""Corpora for the benchmarks: the same for the same numbers, on every machine."""

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

PROJECTS = 20
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


def uuid7(moment: datetime, number: int) -> str:
    """Make a UUIDv7 of a time and a number below 2**48."""
    milliseconds = int(moment.timestamp() * 1000)
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-{number:012x}"


def project_id(number: int) -> str:
    """Return the id of a project."""
    return uuid7(BEGAN, number)


def render_row(number: int, chance: random.Random) -> dict[str, object]:
    """Make a render as a row of Craftkit's table."""
    created = BEGAN + timedelta(seconds=7 * number)
    project = project_id(chance.randrange(PROJECTS))
    render_id = uuid7(created, number)
    status = "succeeded" if chance.random() < 0.97 else "failed"
    completed = created + timedelta(milliseconds=chance.randrange(300, 9000))
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
        "completed_at": _postgres(completed),
    }


def _postgres(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "+00"


def write_renders(file: Path, count: int) -> None:
    """Write renders as NDJSON."""
    chance = random.Random(count)
    with file.open("w") as out:
        for number in range(count):
            out.write(json.dumps(render_row(number, chance)) + "\n")


if __name__ == "__main__":
    write_renders(Path(sys.argv[1]), int(sys.argv[2]))
