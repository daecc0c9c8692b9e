"""The catalog in the real Datasette: every table and view is explained, and every question gets an answer."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from craftkit_archive.archive import CATALOG
from tests.worlds import LIVE_KEY, ROOT, command, fill, load, render

METADATA = ROOT / "craftkit_archive/datasette.yaml"
KNOWN: dict[str, Any] = yaml.safe_load(METADATA.read_text())["databases"]["archive"]
ASKED = {"find_a_render": "?text=019c0000", "who_did_what": "?part=KEYS"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalog in which every question has an answer."""
    folder = tmp_path_factory.mktemp("datasette")
    world = fill(folder)
    load(world.archive, folder, "renders", [render(7, status="failed", error_message="no font"), render(8), render(9)])
    twin = world.bucket / render(9)["asset_key"]
    twin.write_bytes(world.asset(1).read_bytes())
    log = folder / "access.log.1"
    log.write_text('{"time":"2026-11-25T10:00:00.000Z","key_id":"key-1"}\n')
    world.archive.catalog.close()
    path = world.archive.path
    assert command("fetch", world.bucket, archive=path).code in (0, 3)
    assert command("keys", "create", "--project", "northwind", archive=path).code == 0
    world.asset(2).unlink()
    world.asset(3).write_bytes(b"other")
    assert command("verify", archive=path).code == 1
    (folder / "ids.txt").write_text(render(2)["id"])
    assert command("accept", "--ids", folder / "ids.txt", "--reason", "gone", archive=path).code == 0
    assert command("audit", "access-log", log, archive=path).code == 0
    return path / CATALOG


def ask(catalog: Path, address: str) -> Any:
    words: list[str | Path] = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "datasette",
        catalog,
        "-m",
        METADATA,
        "--get",
        address,
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if ".json" in address else done.stdout


def test_every_table_and_view_is_explained(catalog: Path) -> None:
    with closing(sqlite3.connect(catalog)) as connection:
        names = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            if not name.startswith(("sqlite_", "_"))
        }
    assert set(KNOWN["tables"]) == names
    assert all("description" in table or table.get("hidden") for table in KNOWN["tables"].values())


@pytest.mark.parametrize("name", KNOWN["queries"])
def test_every_question_is_answered_from_an_archive_that_has_something_to_say(catalog: Path, name: str) -> None:
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as connection:
        given = {key: value for key, _, value in [ASKED.get(name, "").lstrip("?").partition("=")] if key}
        assert connection.execute(KNOWN["queries"][name]["sql"], given).fetchall(), "no row"
    assert KNOWN["queries"][name]["title"].endswith("?")


def test_datasette_takes_the_metadata_and_runs_every_question(catalog: Path) -> None:
    # One process: it takes seconds to start. Its own test client asks what a browser would.
    script = f"""
import asyncio, json, sys
from datasette.app import Datasette
import yaml
metadata = yaml.safe_load(open({str(METADATA)!r}))
asked = {ASKED!r}
async def main():
    datasette = Datasette([{str(catalog)!r}], metadata=metadata)
    await datasette.invoke_startup()
    found = {{}}
    for name in metadata["databases"]["archive"]["queries"]:
        for form in ("json", "csv", ""):
            dot = "." if form else ""
            answer = await datasette.client.get(f"/archive/{{name}}{{dot}}{{form}}{{asked.get(name, '')}}")
            found[f"{{name}} {{form}}"] = [answer.status_code, answer.text]
    front = await datasette.client.get("/archive")
    found["front"] = [front.status_code, front.text]
    print(json.dumps(found))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: code for name, (code, _) in found.items() if code != 200} == {}
    for name, query in KNOWN["queries"].items():
        rows = json.loads(found[f"{name} json"][1])
        assert rows["ok"] is True, name
        assert rows["rows"], name
        assert query["title"] in found["front"][1]
    assert not re.search(r'href="/archive/api_keys"', found["front"][1])


def test_datasette_starts_as_the_page_says(catalog: Path) -> None:
    found = ask(catalog, "/archive/keys_and_their_use.json")
    assert found["ok"] is True
    assert LIVE_KEY not in json.dumps(found)
