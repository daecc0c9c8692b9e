"""The clients of the endpoint's documentation against a live server, changed in nothing but the base URL."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.fetch.run import fetch_assets
from tests.worlds import (
    GONE_KEY,
    LIVE_KEY,
    OTHER_KEY,
    REVOKED_KEY,
    keys,
    live,
    load,
    needs,
    pdf,
    projects,
    put,
    render,
    summary_of,
)

UPSTREAM = "https://api.craftkit.dev"
SAVED = "render.pdf"

CURL = """\
curl --output render.pdf \\
  --header "Authorization: Bearer $CRAFTKIT_API_KEY" \\
  https://api.craftkit.dev/v1/renders/0193c2c3/download
"""

CURL_FAIL = CURL.replace("curl", "curl --fail", 1)

NODE = """\
import { writeFile } from "node:fs/promises";

const res = await fetch("https://api.craftkit.dev/v1/renders/0193c2c3/download", {
  headers: { Authorization: `Bearer ${process.env.CRAFTKIT_API_KEY}` },
});
if (!res.ok) {
  console.error(`download failed: ${res.status}`);
  process.exit(1);
}
await writeFile("render.pdf", Buffer.from(await res.arrayBuffer()));
"""

PYTHON = """\
import os

import requests

res = requests.get(
    "https://api.craftkit.dev/v1/renders/0193c2c3/download",
    headers={"Authorization": f"Bearer {os.environ['CRAFTKIT_API_KEY']}"},
    timeout=30,
)
res.raise_for_status()
with open("render.pdf", "wb") as file:
    file.write(res.content)
"""

REFUSED_KEYS = {
    "wrong key": ("ck_live_SAMPLEunknown0000007", 401),
    "revoked key": (REVOKED_KEY, 401),
    "key of a deleted project": (GONE_KEY, 403),
    "key of another project": (OTHER_KEY, 404),
}


class House(NamedTuple):
    """A served archive with the one render of the samples."""

    url: str
    stored: Path
    body: bytes


class Ran(NamedTuple):
    """How a client ended, and what it saved."""

    code: int
    err: str
    saved: bytes | None


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve an archive with the one render of the samples."""
    folder = tmp_path_factory.mktemp("clients")
    row = render(0, id="0193c2c3")
    body = pdf("0193c2c3", size_bytes=300_000)
    put(folder / "bucket", row["asset_key"], body)
    archive = Archive.create(folder / "archive")
    load(archive, folder, "projects", projects())
    load(archive, folder, "keys", keys())
    load(archive, folder, "renders", [row])
    assert summary_of(fetch_assets(archive, str(folder / "bucket"))).counts["copied"] == 1
    with archive, live(archive) as url:
        yield House(url, Path(archive.store.address, row["asset_key"]), body)


@pytest.fixture
def damaged(house: House) -> Iterator[House]:
    """Serve the render with one bit of it flipped."""
    flipped = bytearray(house.body)
    flipped[len(flipped) // 2] ^= 0x10
    house.stored.write_bytes(flipped)
    yield house
    house.stored.write_bytes(house.body)


def run(program: list[str], client: str, house: House, folder: Path, key: str = LIVE_KEY) -> Ran:
    """Run a client as it is printed, with the base URL of a live server and nothing else changed."""
    assert client.count(UPSTREAM) == 1
    done = subprocess.run(
        [*program, client.replace(UPSTREAM, house.url)],
        cwd=folder,
        env={**os.environ, "CRAFTKIT_API_KEY": key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    saved = folder / SAVED
    return Ran(done.returncode, done.stderr, saved.read_bytes() if saved.exists() else None)


def shell() -> list[str]:
    """Return how the curl sample is run."""
    needs("curl")
    return [needs("sh"), "-c"]


def node() -> list[str]:
    """Return how the JavaScript sample is run."""
    return [needs("node"), "--input-type=module", "--eval"]


def python() -> list[str]:
    """Return how the Python sample is run."""
    return [sys.executable, "-c"]


# --- curl ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [CURL, CURL_FAIL])
def test_curl_saves_the_very_bytes(house: House, tmp_path: Path, client: str) -> None:
    ran = run(shell(), client, house, tmp_path)
    assert (ran.code, ran.saved) == (0, house.body)


@pytest.mark.parametrize(("key", "status"), REFUSED_KEYS.values(), ids=REFUSED_KEYS.keys())
def test_curl_with_fail_exits_22_and_saves_nothing(house: House, tmp_path: Path, key: str, status: int) -> None:
    ran = run(shell(), CURL_FAIL, house, tmp_path, key)
    assert (ran.code, ran.saved) == (22, None)
    assert str(status) in ran.err


@pytest.mark.parametrize(("key", "status"), REFUSED_KEYS.values(), ids=REFUSED_KEYS.keys())
def test_curl_without_fail_saves_the_envelope(house: House, tmp_path: Path, key: str, status: int) -> None:
    ran = run(shell(), CURL, house, tmp_path, key)
    assert ran.code == 0
    codes = {401: "unauthorized", 403: "forbidden", 404: "not_found"}
    assert json.loads(ran.saved or b"")["error"]["code"] == codes[status]


def test_curl_with_fail_never_saves_damaged_bytes(damaged: House, tmp_path: Path) -> None:
    ran = run(shell(), CURL_FAIL, damaged, tmp_path)
    assert (ran.code, ran.saved) == (22, None)
    assert "500" in ran.err


# --- JavaScript ------------------------------------------------------------------------------------------------------


def test_fetch_saves_the_very_bytes(house: House, tmp_path: Path) -> None:
    assert run(node(), NODE, house, tmp_path) == Ran(0, "", house.body)


@pytest.mark.parametrize(("key", "status"), REFUSED_KEYS.values(), ids=REFUSED_KEYS.keys())
def test_fetch_is_not_ok_and_saves_nothing(house: House, tmp_path: Path, key: str, status: int) -> None:
    assert run(node(), NODE, house, tmp_path, key) == Ran(1, f"download failed: {status}\n", None)


def test_fetch_never_saves_damaged_bytes(damaged: House, tmp_path: Path) -> None:
    assert run(node(), NODE, damaged, tmp_path) == Ran(1, "download failed: 500\n", None)


# --- Python ----------------------------------------------------------------------------------------------------------


def test_requests_saves_the_very_bytes(house: House, tmp_path: Path) -> None:
    assert run(python(), PYTHON, house, tmp_path) == Ran(0, "", house.body)


@pytest.mark.parametrize(("key", "status"), REFUSED_KEYS.values(), ids=REFUSED_KEYS.keys())
def test_requests_raises_for_the_status_and_saves_nothing(house: House, tmp_path: Path, key: str, status: int) -> None:
    ran = run(python(), PYTHON, house, tmp_path, key)
    assert (ran.code, ran.saved) == (1, None)
    assert f"requests.exceptions.HTTPError: {status} " in ran.err


def test_requests_never_saves_damaged_bytes(damaged: House, tmp_path: Path) -> None:
    ran = run(python(), PYTHON, damaged, tmp_path)
    assert (ran.code, ran.saved) == (1, None)
    assert "requests.exceptions.HTTPError: 500 " in ran.err
