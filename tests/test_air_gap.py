"""From the bucket to a box without a network, with the very commands of docs/air-gap.md."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import requests

from tests.services import BUCKET, RealService
from tests.worlds import LIVE_KEY, ROOT, keys, pdf, projects, put, render, render_id, write_json, write_ndjson

COUNT = 4
INSTALLED = f"""#!/bin/sh
export PYTHONPATH={shlex.quote(str(ROOT))}
exec {shlex.quote(sys.executable)} -c 'import cli; cli.main()' "$@"
"""


def documented() -> list[str]:
    """Return the blocks of commands of the chapter."""
    chapter = (ROOT / "docs/air-gap.md").read_text().split("## From the bucket to the box\n")[1]
    return re.findall(r"```sh\n(.*?)```", chapter.split("\n## ")[0], re.DOTALL)


def test_an_archive_is_fetched_sealed_carried_over_checked_and_served(tmp_path: Path, rclone: RealService) -> None:
    rows = [render(number) for number in range(COUNT)]
    for row in rows:
        put(rclone.bucket / "carried", row["asset_key"], pdf(row["id"]))
    write_json(tmp_path / "projects.json", projects())
    write_json(tmp_path / "keys.json", keys())
    write_ndjson(tmp_path / "renders.ndjson", rows)
    program = tmp_path / "bin/craftkit-archive"
    program.parent.mkdir()
    program.write_text(INSTALLED)
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    def sh(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {**os.environ, **path, **environment}
        return subprocess.run(
            ["sh", "-ec", script], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=60
        )

    gather, box = documented()
    here, media, log = tmp_path / "here", tmp_path / "media", tmp_path / "access.ndjson"
    gather = gather.replace("/srv/archive", str(here)).replace("s3://bucket", f"s3://{BUCKET}/carried")
    done = sh(gather, AWS_ENDPOINT_URL_S3=rclone.url)
    assert done.returncode == 0, done.stderr
    seal = re.findall(r"\b[0-9a-f]{64}\b", done.stdout)[-1]
    log_of_catalog = here / "archive.db-wal"
    assert not log_of_catalog.exists() or log_of_catalog.stat().st_size == 0, "archive.db alone is the whole catalog"

    shutil.copytree(here, media, ignore=shutil.ignore_patterns("archive.db-*"))
    shutil.rmtree(here)
    check, _, serve = box.replace("/media/archive", str(media)).partition("craftkit-archive serve")
    assert sh(check.replace("HEX", seal)).returncode == 0
    assert sh(check.replace("HEX", "0" * 64)).returncode == 1

    serve = serve.replace("0.0.0.0:8080", "127.0.0.1:0").replace("/var/log/craftkit-archive/access.ndjson", str(log))
    words = [str(program), "--json", "--archive", str(media), "serve", *shlex.split(serve)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://[0-9.:]+", server.stdout.readline())
        assert found is not None
        address = f"{found[0]}/v1/renders/{render_id(1)}/download"
        answer = requests.get(address, headers={"Authorization": f"Bearer {LIVE_KEY}"}, timeout=10)
        server.terminate()
    assert (answer.status_code, answer.content) == (200, pdf(rows[1]["id"]))
    assert log.read_text().count("\n") == 1
