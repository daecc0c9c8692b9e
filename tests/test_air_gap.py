"""From the bucket to a box without a network, with the very commands of docs/air-gap.md."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

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

    gather, carry, check, serve, download = documented()
    here, media, log = tmp_path / "here", tmp_path / "media", tmp_path / "log/access.ndjson"
    gather = gather.replace("/srv/archive", str(here)).replace("s3://bucket", f"s3://{BUCKET}/carried")
    done = sh(gather, AWS_ENDPOINT_URL_S3=rclone.url)
    assert done.returncode == 0, done.stderr
    seal = re.findall(r"\b[0-9a-f]{64}\b", done.stdout)[-1]
    log_of_catalog = here / "archive.db-wal"
    assert not log_of_catalog.exists() or log_of_catalog.stat().st_size == 0, "archive.db alone is the whole catalog"

    media.mkdir()
    assert sh(carry.replace("/srv/archive", str(here)).replace("/media/disk", str(media))).returncode == 0
    shutil.rmtree(here)
    check, serve = (block.replace("/media/disk", str(media)) for block in (check, serve))
    assert "MATCHES" in sh(check.replace("HEX", seal)).stderr
    changed = sh(check.replace("HEX", "0" * 64))
    assert (changed.returncode, "DOES NOT MATCH" in changed.stderr) == (1, True)

    prepare, _, serve = serve.replace("/var/log/craftkit-archive", str(log.parent)).partition("craftkit-archive serve")
    assert sh(prepare).returncode == 0
    serve = serve.replace("0.0.0.0:8080", "127.0.0.1:0")
    words = [str(program), "--json", "--archive", str(media / "archive"), "serve", *shlex.split(serve)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://[0-9.:]+", server.stdout.readline())
        assert found is not None
        download = download.replace("http://127.0.0.1:8080", found[0]).replace("RENDER", render_id(1))
        done = sh(download.replace("KEY", LIVE_KEY))
        server.terminate()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "test.pdf").read_bytes() == pdf(rows[1]["id"])
    assert log.read_text().count("\n") == 1
