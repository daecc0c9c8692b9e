"""The HTTP server: the whole contract of the download endpoint over real sockets, byte for byte."""

import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from threading import Barrier, Event
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest

from craftkit_archive import errors
from craftkit_archive.archive import Archive
from craftkit_archive.catalog import Catalog
from craftkit_archive.fetch.run import fetch_assets
from server.app import Service, Settings
from server.serve import DEFAULT_THREADS, listen, url_of
from tests.worlds import (
    GONE,
    GONE_KEY,
    LIVE_KEY,
    NORTHWIND,
    OTHER_KEY,
    REVOKED_KEY,
    ROOT,
    SOUTHWIND,
    STATUSES,
    TEST_KEY,
    World,
    fill,
    keys,
    live,
    load,
    pdf,
    program,
    projects,
    put,
    render,
    render_id,
    running,
    summary_of,
)

ACCOUNT_KEY = "ck_acct_SAMPLEaccount0000006"
UNKNOWN_KEY = "ck_live_SAMPLEunknown0000007"
UNKNOWN_ID = render_id(999)
TIMEOUT_S = 30
MIB = 1 << 20

# Every kind of render that a key can ask for, by a name to speak of it.
ROWS = {
    "stored": render(0, duration_ms=3000),
    "large": render(1),
    "timeless": render(2, created_at=None, completed_at=None),
    "foreign": render(3, project_id=SOUTHWIND),
    "gone": render(4, project_id=GONE),
    "short": render(5, id="0193c2c3"),
    "quoted": render(6, id='a"b\\c d'),
    "accented": render(7, id="Rechnung-Nº7-€", asset_key=f"renders/{NORTHWIND}/Nº 7 100%.pdf"),
    "bare": render(10),
    "queued": render(11, status="queued", asset_key=None, completed_at=None),
    "rendering": render(12, status="rendering", asset_key=None, completed_at=None),
    "failed": render(13, status="failed", asset_key=None, error_message="The font “Söhne” is missing.", duration_ms=20),
    "cancelled": render(14, status="cancelled", asset_key=None),
}
GOOD = ("stored", "large", "timeless", "foreign", "short", "quoted", "accented")
UNREADY = ("queued", "rendering", "failed", "cancelled")


def _flip(path: Path) -> None:
    # The very last byte: nobody who sends before he has read it all finds it in time.
    body = bytearray(path.read_bytes())
    body[-1] ^= 0x01
    path.write_bytes(body)


def _replace(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_outside(path: Path) -> None:
    outside = path.parents[3] / "outside.pdf"
    path.rename(outside)
    path.symlink_to(outside)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit flipped": _flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: put(path.parent, path.name, path.read_bytes() + b"\n"),
    "another PDF": lambda path: put(path.parent, path.name, pdf("another")),
    "deleted": Path.unlink,
    "replaced by a folder": _replace,
    "linked out of the store": _link_outside,
}
ROWS |= {damage: render(20 + number) for number, damage in enumerate(DAMAGE)}
ID = {name: row["id"] for name, row in ROWS.items()}


# --- asking ----------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What came back over the wire until the server closed, taken apart but not interpreted."""

    status_line: str
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes

    @property
    def status(self) -> int:
        """The status."""
        return int(self.status_line.split(" ", 2)[1])

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the value of a header that comes once at most."""
        found = [value for given, value in self.headers if given.lower() == name.lower()]
        assert len(found) <= 1, f"{name} is given {len(found)} times"
        return found[0] if found else None

    def but_date(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """Return everything that two equal answers share."""
        return self.status_line, [pair for pair in self.headers if pair[0] not in ("Date", "X-Request-Id")], self.body


def take_apart(raw: bytes) -> Answer:
    """Split one answer into its status line, headers and body."""
    head, found, body = raw.partition(b"\r\n\r\n")
    assert found, raw[:200]
    status_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(": ") for line in lines]
    return Answer(status_line, [(name, value) for name, _, value in pairs], body, raw)


def connect(url: str) -> socket.socket:
    """Open a connection to a server."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port or 80), timeout=TIMEOUT_S)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    pieces = []
    while piece := connection.recv(MIB):
        pieces.append(piece)
    return b"".join(pieces)


def request_bytes(
    url: str, target: str | bytes, *, method: str = "GET", key: str | None = LIVE_KEY, more: tuple[bytes, ...] = ()
) -> bytes:
    """Write a request that ends its connection.

    Args:
        url: The server.
        target: The path as it is sent.
        method: The method.
        key: Sent as a bearer, unless it is None.
        more: Header lines.
    """
    lines = [
        b"%s %s HTTP/1.1" % (method.encode(), target.encode() if isinstance(target, str) else target),
        b"Host: " + urlsplit(url).netloc.encode(),
        b"Connection: close",
        *([f"Authorization: Bearer {key}".encode()] if key is not None else []),
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def ask(
    url: str, target: str | bytes, *, method: str = "GET", key: str | None = LIVE_KEY, more: tuple[bytes, ...] = ()
) -> Answer:
    """Send one request and return all that comes back."""
    with connect(url) as connection:
        connection.sendall(request_bytes(url, target, method=method, key=key, more=more))
        return take_apart(read_to_end(connection))


def show_path(wanted: str) -> str:
    """Return the path of a render's description."""
    return f"/v1/renders/{quote(wanted, safe='')}"


def download_path(wanted: str) -> str:
    """Return the path of a render's PDF."""
    return f"{show_path(wanted)}/download"


def assert_refused(answer: Answer, status: int, code: str, *, head: bool = False) -> str:
    """Check an error response header by header, and return its message (nothing, if it answers a HEAD)."""
    phrases = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict"}
    assert answer.status_line == f"HTTP/1.1 {status} {phrases.get(status, 'Internal Server Error')}"
    assert answer.header("Content-Type") == "application/json"
    assert answer.header("Cache-Control") == "no-store"
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert answer.header("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert (answer.header("Allow") is not None) == (status == 405)
    for name in ("Content-Disposition", "ETag", "Last-Modified", "Transfer-Encoding", "Location"):
        assert answer.header(name) is None
    if head:
        assert answer.body == b""
        return ""
    assert answer.header("Content-Length") == str(len(answer.body))
    envelope = answer.json
    assert list(envelope) == ["error"]
    assert sorted(envelope["error"]) == ["code", "message"]
    assert envelope["error"]["code"] == code
    message = envelope["error"]["message"]
    assert isinstance(message, str)
    assert message
    return message


class House(NamedTuple):
    """A served archive that holds every row of `ROWS`, and the PDFs as they were stored."""

    url: str
    archive: Archive
    bodies: dict[str, bytes]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve an archive with every kind of render in it."""
    folder = tmp_path_factory.mktemp("house")
    bucket = folder / "bucket"
    names = [*GOOD, "gone", *DAMAGE]
    sizes = {"large": 20 * MIB, "one bit flipped": 3 * MIB}
    bodies = {name: pdf(name, size_bytes=sizes.get(name, 0)) for name in names}
    for name in names:
        put(bucket, ROWS[name]["asset_key"], bodies[name])
    archive = Archive.create(folder / "archive")
    load(archive, folder, "projects", projects())
    load(archive, folder, "keys", keys())
    assert not load(archive, folder, "renders", list(ROWS.values())).counts["rejected"]
    assert summary_of(fetch_assets(archive, str(bucket))).counts["copied"] == len(names)
    for name, damage in DAMAGE.items():
        damage(Path(archive.store.address, ROWS[name]["asset_key"]))
    with archive, live(archive, Settings()) as url:
        yield House(url, archive, bodies)


# --- the PDF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stored", "large", "short"])
def test_a_download_is_the_raw_pdf_with_exact_headers(house: House, name: str) -> None:
    answer = ask(house.url, download_path(ID[name]))
    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.body == house.bodies[name]
    expected = {
        "Content-Type": "application/pdf",
        "Content-Length": str(len(house.bodies[name])),
        "Content-Disposition": f'attachment; filename="{ID[name]}.pdf"',
        "ETag": f'"{sha256(house.bodies[name]).hexdigest()}"',
        "Last-Modified": "Fri, 05 Jun 2026 10:00:03 GMT",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    assert {given: answer.header(given) for given in expected} == expected
    for absent in ("Transfer-Encoding", "Content-Encoding", "WWW-Authenticate", "Allow", "Set-Cookie", "Location"):
        assert answer.header(absent) is None
    assert len({given.lower() for given, _ in answer.headers}) == len(answer.headers)


def test_a_render_without_a_completion_time_is_downloaded_without_last_modified(house: House) -> None:
    answer = ask(house.url, download_path(ID["timeless"]))
    assert (answer.status, answer.body) == (200, house.bodies["timeless"])
    assert answer.header("Last-Modified") is None


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("quoted", r'attachment; filename="a\"b\\c d.pdf"'),
        (
            "accented",
            "attachment; filename=\"Rechnung-N?7-?.pdf\"; filename*=UTF-8''Rechnung-N%C2%BA7-%E2%82%AC.pdf",
        ),
    ],
)
def test_an_id_of_any_characters_names_its_download(house: House, name: str, disposition: str) -> None:
    answer = ask(house.url, download_path(ID[name]))
    assert (answer.status, answer.body) == (200, house.bodies[name])
    assert answer.header("Content-Disposition") == disposition


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {LIVE_KEY}",
        f"bearer {LIVE_KEY}",
        f"BEARER {LIVE_KEY}",
        f"Bearer  {LIVE_KEY} ",
        f"Bearer {TEST_KEY}",
    ],
)
def test_every_good_key_of_the_project_is_accepted_whatever_the_case_of_the_scheme(
    house: House, authorization: str
) -> None:
    line = f"Authorization: {authorization}".encode()
    answer = ask(house.url, download_path(ID["stored"]), key=None, more=(line,))
    assert (answer.status, answer.body) == (200, house.bodies["stored"])


def test_a_query_string_changes_nothing(house: House) -> None:
    answer = ask(house.url, f"{download_path(ID['stored'])}?cache=%ff&x")
    assert (answer.status, answer.body) == (200, house.bodies["stored"])


HEAD_TARGETS = {
    "a download": (download_path(ID["stored"]), LIVE_KEY),
    "a large download": (download_path(ID["large"]), LIVE_KEY),
    "a render": (show_path(ID["stored"]), LIVE_KEY),
    "health": ("/health", None),
    "no key": (download_path(ID["stored"]), None),
    "a deleted project": (download_path(ID["gone"]), GONE_KEY),
    "an unknown render": (download_path(UNKNOWN_ID), LIVE_KEY),
    "a queued render": (download_path(ID["queued"]), LIVE_KEY),
    "a damaged PDF": (download_path(ID["one bit flipped"]), LIVE_KEY),
    "a missing PDF": (download_path(ID["deleted"]), LIVE_KEY),
    "nothing": ("/v1/nothing", None),
}


@pytest.mark.parametrize(("target", "key"), HEAD_TARGETS.values(), ids=HEAD_TARGETS.keys())
def test_head_answers_the_headers_of_get_and_no_body(house: House, target: str, key: str | None) -> None:
    got = ask(house.url, target, key=key)
    head = ask(house.url, target, method="HEAD", key=key)
    assert head.body == b""
    assert head.but_date()[:2] == got.but_date()[:2]
    assert head.header("Content-Length") == str(len(got.body))


def test_answers_on_one_connection_do_not_run_into_each_other(house: House) -> None:
    connection = HTTPConnection(urlsplit(house.url).netloc, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {LIVE_KEY}"}
    try:
        for method, name, status in [
            ("HEAD", "stored", 200),
            ("GET", "stored", 200),
            ("HEAD", "one bit flipped", 500),
            ("GET", "one bit flipped", 500),
            ("POST", "stored", 405),
            ("GET", "queued", 409),
            ("GET", "large", 200),
            ("GET", "short", 200),
        ]:
            connection.request(method, download_path(ID[name]), headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == status
            if status == 200:
                assert body == (house.bodies[name] if method == "GET" else b"")
            assert not answer.will_close
    finally:
        connection.close()


# --- who may ask -----------------------------------------------------------------------------------------------------

BAD_AUTHORIZATION: dict[str, bytes | None] = {
    "none": None,
    "empty": b"",
    "scheme alone": b"Bearer",
    "empty bearer": b"Bearer ",
    "wrong scheme": f"Basic {LIVE_KEY}".encode(),
    "another wrong scheme": f"Token {LIVE_KEY}".encode(),
    "no scheme": LIVE_KEY.encode(),
    "no space": f"Bearer{LIVE_KEY}".encode(),
    "unknown key": f"Bearer {UNKNOWN_KEY}".encode(),
    "revoked key": f"Bearer {REVOKED_KEY}".encode(),
    "account key": f"Bearer {ACCOUNT_KEY}".encode(),
    "prefix of a key": f"Bearer {LIVE_KEY[:12]}".encode(),
    "key without its end": f"Bearer {LIVE_KEY[:-1]}".encode(),
    "key in lower case": f"Bearer {LIVE_KEY.lower()}".encode(),
    "key with more after it": f"Bearer {LIVE_KEY} x".encode(),
    "quoted key": f'Bearer "{LIVE_KEY}"'.encode(),
    "two keys": f"Bearer {LIVE_KEY}, Bearer {LIVE_KEY}".encode(),
    "hash of a key": b"Bearer " + sha256(LIVE_KEY.encode()).hexdigest().encode(),
    "SQL": b"Bearer ' OR '1'='1",
    "UTF-8": "Bearer ck_live_Schlüssel".encode(),
    "not UTF-8": b"Bearer ck_live_\xff\xfe",
    "a scheme that is not UTF-8": b"\xff",
    "long": b"Bearer " + b"x" * 50_000,
}


@pytest.mark.parametrize("path", [show_path, download_path])
@pytest.mark.parametrize("authorization", BAD_AUTHORIZATION.values(), ids=BAD_AUTHORIZATION.keys())
def test_a_key_that_is_missing_invalid_or_revoked_is_unauthorized(
    house: House, authorization: bytes | None, path: Callable[[str], str]
) -> None:
    more = () if authorization is None else (b"Authorization: " + authorization,)
    for wanted in (ID["stored"], UNKNOWN_ID):
        answer = ask(house.url, path(wanted), key=None, more=more)
        assert_refused(answer, 401, "unauthorized")


def test_a_key_in_the_address_is_no_key(house: House) -> None:
    answer = ask(house.url, f"{download_path(ID['stored'])}?api_key={LIVE_KEY}&access_token={LIVE_KEY}", key=None)
    assert_refused(answer, 401, "unauthorized")


def test_an_account_key_is_never_valid_even_if_its_hash_was_imported(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1)
    hashed = sha256(ACCOUNT_KEY.encode()).hexdigest()
    load(world.archive, tmp_path, "keys", [{"id": "key-a", "project_id": NORTHWIND, "key_hash": hashed}])
    with world.archive, live(world.archive) as url:
        assert_refused(ask(url, download_path(render_id(0)), key=ACCOUNT_KEY), 401, "unauthorized")


@pytest.mark.parametrize("path", [show_path, download_path])
@pytest.mark.parametrize("wanted", [ID["gone"], ID["stored"], UNKNOWN_ID])
def test_a_key_of_a_deleted_project_is_forbidden(house: House, wanted: str, path: Callable[[str], str]) -> None:
    assert_refused(ask(house.url, path(wanted), key=GONE_KEY), 403, "forbidden")


def test_a_key_of_a_project_that_was_never_imported_is_forbidden(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1)
    stray = {"id": "key-s", "project_id": "nowhere", "key": UNKNOWN_KEY}
    load(world.archive, tmp_path, "keys", [stray])
    with world.archive, live(world.archive) as url:
        assert_refused(ask(url, download_path(render_id(0)), key=UNKNOWN_KEY), 403, "forbidden")


def test_a_revoked_key_of_a_deleted_project_is_unauthorized(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1)
    world.archive.revoke_key("key-5")
    with world.archive, live(world.archive) as url:
        assert_refused(ask(url, download_path(render_id(0)), key=GONE_KEY), 401, "unauthorized")


# --- which render ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [show_path, download_path])
def test_another_projects_render_and_an_unknown_one_get_the_very_same_404(
    house: House, path: Callable[[str], str]
) -> None:
    unknown = ask(house.url, path(UNKNOWN_ID))
    assert_refused(unknown, 404, "not_found")
    for name in ("foreign", "gone"):
        assert ask(house.url, path(ID[name])).but_date() == unknown.but_date()
    assert ask(house.url, path(ID["stored"]), key=OTHER_KEY).but_date() == unknown.but_date()
    assert ask(house.url, path(ID["queued"]), key=OTHER_KEY).but_date() == unknown.but_date()
    assert ask(house.url, path(ID["deleted"]), key=OTHER_KEY).but_date() == unknown.but_date()
    assert ask(house.url, path(ID["foreign"]), key=OTHER_KEY).status == 200


STORED = ID["stored"]
ODD_IDS = {
    "short": "x",
    "prefix of an id": STORED[:8],
    "id in upper case": STORED.upper(),
    "id and .pdf": f"{STORED}.pdf",
    "id and a space": f"{STORED}%20",
    "space and an id": f"%20{STORED}",
    "id and NUL": f"{STORED}%00",
    "id and a newline": f"{STORED}%0A",
    "id and a byte that is not UTF-8": f"{STORED}%ff",
    "id with half a character in it": f"{STORED[:8]}%C3{STORED[8:]}",
    "one that is not UTF-8": "%ff",
    "surrogate": "%ED%A0%80",
    "NUL": "%00",
    "double quote": "%22",
    "SQL": "'%20OR%20'1'='1",
    "wildcard": "%25",
    "half an escape": "%",
    "no escape": "%zz",
    "escaped escape": "%252e%252e",
    "header injection": "x%0d%0aX-Injected:%20yes",
    "markup": "%3Cscript%3Ealert(1)%3C/script%3E",
    "umlaut": "%C3%BC",
    "emoji": "%F0%9F%93%84",
    "dot": ".",
    "dots": "..",
    "escaped dots": "%2e%2e",
    "escaped slash": "a%2Fb",
    "escaped slash alone": "%2F",
    "path out of the store": "..%2f..%2f..%2fetc%2fpasswd",
    "path out of the store, unescaped": "../../../etc/passwd",
    "backslashes": "..%5c..%5cwindows",
    "nothing": "",
    "slash": "/",
    "star": "*",
    "semicolon": ";a=b",
    "braces": "{id}",
    "long": "x" * 5000,
}


@pytest.mark.parametrize("odd", ODD_IDS.values(), ids=ODD_IDS.keys())
def test_an_id_is_never_refused_for_its_form_but_unknown(house: House, odd: str) -> None:
    for target in (f"/v1/renders/{odd}/download", f"/v1/renders/{odd}/", f"/v1/renders/{odd}"):
        answer = ask(house.url, target)
        # `/v1/renders` itself, however it is spelt, is an address of its own.
        if target.rstrip("/") != "/v1/renders":
            assert_refused(answer, 404, "not_found")
        assert answer.status < 500
        assert answer.header("X-Injected") is None


# --- not ready, not stored -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", UNREADY)
def test_a_render_that_has_not_succeeded_is_a_conflict_that_tells_its_status(house: House, status: str) -> None:
    message = assert_refused(ask(house.url, download_path(ID[status])), 409, "conflict")
    assert status in message
    assert not any(other in message for other in STATUSES if other != status)


def test_a_succeeded_render_without_a_stored_pdf_is_a_conflict_that_tells_its_status(house: House) -> None:
    assert "succeeded" in assert_refused(ask(house.url, download_path(ID["bare"])), 409, "conflict")


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_bytes_are_a_clean_500_and_none_of_them_is_sent(
    house: House, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(house.url, download_path(ID[name]))
    message = assert_refused(answer, 500, "internal")
    assert b"PDF-1." not in answer.raw
    assert house.bodies[name][-40:] not in answer.raw
    # Where the bytes lie is for the log, not for clients.
    assert house.archive.store.address not in message
    assert ROWS[name]["asset_key"] not in message
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [ROWS[name]["asset_key"] in record.getMessage() for record in told] == [True]


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_render_is_still_described(house: House, name: str) -> None:
    assert ask(house.url, show_path(ID[name])).json["status"] == "succeeded"


def test_a_mended_pdf_is_served_again(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1)
    with world.archive, live(world.archive) as url:
        _flip(world.asset(0))
        assert_refused(ask(url, download_path(render_id(0))), 500, "internal")
        _flip(world.asset(0))
        answer = ask(url, download_path(render_id(0)))
        assert (answer.status, answer.body) == (200, pdf("render 0"))


def test_a_store_that_is_gone_is_a_500_and_no_404(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1)
    store = Path(world.archive.store.address)
    with world.archive, live(world.archive) as url:
        store.rename(tmp_path / "unmounted")
        assert_refused(ask(url, download_path(render_id(0))), 500, "internal")


# --- describing a render ---------------------------------------------------------------------------------------------


def described(name: str, api_url: str, download_url: str | None) -> dict[str, object]:
    """Write by hand what `GET /v1/renders/:id` has to answer."""
    row = ROWS[name]
    return {
        "id": row["id"],
        "status": row["status"],
        "pollUrl": f"{api_url}{show_path(row['id'])}",
        "downloadUrl": download_url,
        "errorMessage": row["error_message"],
        "createdAt": row["created_at"] and "2026-06-05T10:00:00.120Z",
        "completedAt": row["completed_at"] and "2026-06-05T10:00:03.120Z",
        "durationMs": row.get("duration_ms"),
    }


def assert_described(answer: Answer, expected: dict[str, object]) -> None:
    """Check a description field by field, and the headers around it."""
    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.header("Content-Type") == "application/json"
    assert answer.header("Content-Length") == str(len(answer.body))
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert answer.header("Cache-Control") == "no-store"
    assert answer.json == expected


SUCCEEDED = ("stored", "timeless", "quoted", "accented", "bare", "deleted")


@pytest.mark.parametrize("name", [*SUCCEEDED, *UNREADY])
def test_a_render_is_described_with_this_apis_own_download_route_once_it_succeeded(house: House, name: str) -> None:
    own = f"{house.url}{download_path(ID[name])}" if name in SUCCEEDED else None
    assert_described(ask(house.url, show_path(ID[name])), described(name, house.url, own))


@pytest.mark.parametrize("public_url", ["https://archive.example/craftkit", "https://archive.example/craftkit/"])
def test_the_public_url_is_where_every_address_begins(house: House, public_url: str) -> None:
    base = "https://archive.example/craftkit"
    with live(house.archive, Settings(public_url=public_url)) as url:
        for name in ("stored", "accented", *UNREADY):
            own = f"{base}{download_path(ID[name])}" if name in SUCCEEDED else None
            assert_described(ask(url, show_path(ID[name])), described(name, base, own))


def test_with_a_public_bucket_the_download_url_is_the_objects_and_the_route_still_works(house: House) -> None:
    bucket = "https://pdfs.example/bucket"
    with live(house.archive, Settings(s3_public_url=bucket)) as url:
        addresses = {
            "stored": f"{bucket}/renders/{NORTHWIND}/{ID['stored']}.pdf",
            "bare": f"{bucket}/renders/{NORTHWIND}/{ID['bare']}.pdf",
            "accented": f"{bucket}/renders/{NORTHWIND}/N%C2%BA%207%20100%25.pdf",
        }
        for name in (*addresses, *UNREADY):
            assert_described(ask(url, show_path(ID[name])), described(name, url, addresses.get(name)))
        answer = ask(url, download_path(ID["stored"]))
        assert (answer.status, answer.body) == (200, house.bodies["stored"])


@pytest.mark.parametrize("name", ["stored", "short", "quoted", "accented"])
def test_the_addresses_of_a_description_lead_where_they_say(house: House, name: str) -> None:
    shown = ask(house.url, show_path(ID[name])).json
    assert ask(house.url, shown["pollUrl"].removeprefix(house.url)).json == shown
    assert ask(house.url, shown["downloadUrl"].removeprefix(house.url)).body == house.bodies[name]


def test_addresses_begin_with_the_host_that_was_asked_and_with_no_forwarded_one(house: House) -> None:
    forwarded = (b"X-Forwarded-Host: evil.example", b"X-Forwarded-Proto: https", b"Forwarded: host=evil.example")
    shown = ask(house.url, show_path(ID["stored"]), more=forwarded).json
    assert shown["pollUrl"] == f"{house.url}{show_path(ID['stored'])}"


# --- other addresses, other methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, UNKNOWN_KEY, LIVE_KEY])
def test_health_is_ok_for_everybody(house: House, key: str | None) -> None:
    answer = ask(house.url, "/health", key=key)
    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.header("Content-Type") == "application/json"
    assert answer.header("Content-Length") == str(len(answer.body))
    assert answer.json == {"status": "ok"}


@pytest.mark.parametrize(
    "target",
    [
        "/v1",
        "/v1/nothing",
        "/v1/nothing/",
        "/v2/renders/x/download",
        "/v1/renders//download",
        f"/v1/renders/{STORED}/upload",
        f"/v1/renders/{STORED}/download/",
        f"/v1/renders/{STORED}/download/x",
        f"/V1/renders/{STORED}",
        "/health/",
        "/Health",
        "/h%ffealth",
        "*",
    ],
)
@pytest.mark.parametrize("key", [None, LIVE_KEY])
def test_an_address_where_nothing_is_is_not_found(house: House, target: str, key: str | None) -> None:
    assert_refused(ask(house.url, target, key=key), 404, "not_found")


ROUTES = ("/health", show_path(STORED), download_path(STORED), download_path(UNKNOWN_ID))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("target", ROUTES)
def test_a_method_that_an_address_does_not_take_is_not_allowed(house: House, target: str, method: str) -> None:
    for key in (None, LIVE_KEY):
        answer = ask(house.url, target, method=method, key=key, more=(b"Content-Length: 0",))
        assert_refused(answer, 405, "method_not_allowed")
        assert "GET" in (answer.header("Allow") or "").replace(" ", "").split(",")


@pytest.mark.parametrize("target", ROUTES)
def test_allow_names_every_method_that_is_answered(house: House, target: str) -> None:
    assert ask(house.url, target, method="HEAD").status != 405
    allowed = (ask(house.url, target, method="POST", more=(b"Content-Length: 0",)).header("Allow") or "").split(",")
    assert sorted(method.strip() for method in allowed) == ["GET", "HEAD"]


def test_a_body_that_nobody_asked_for_changes_nothing(house: House) -> None:
    with connect(house.url) as connection:
        request = request_bytes(house.url, download_path(STORED), more=(b"Content-Length: 5",))
        connection.sendall(request + b"hello")
        answer = take_apart(read_to_end(connection))
    assert (answer.status, answer.body) == (200, house.bodies["stored"])


HEAD = b"Host: x\r\nConnection: close\r\n"
NOT_HTTP: dict[str, tuple[bytes, int, str]] = {
    "a start line that is none": (b"HELLO\r\n\r\n", 400, "bad_request"),
    "a header line that is none": (b"GET /health HTTP/1.1\r\n" + HEAD + b"name : value\r\n\r\n", 400, "bad_request"),
    "a raw byte in the path": (b"GET /v1/renders/\xff HTTP/1.1\r\n" + HEAD + b"\r\n", 400, "bad_request"),
    "an unknown transfer coding": (
        b"GET /health HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        501,
        "internal",
    ),
}


@pytest.mark.parametrize(("sent", "status", "code"), NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_what_is_not_even_http_is_refused_in_the_one_envelope(
    house: House, sent: bytes, status: int, code: str
) -> None:
    with connect(house.url) as connection:
        connection.sendall(sent)
        answer = take_apart(read_to_end(connection))
    assert answer.status == status
    assert answer.header("Content-Length") == str(len(answer.body))
    assert answer.header("Content-Type") == "application/json"
    assert list(answer.json) == ["error"]
    assert sorted(answer.json["error"]) == ["code", "message"]
    assert answer.json["error"]["code"] == code


# --- our own bugs and troubles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [show_path, download_path])
def test_a_bug_of_our_own_is_an_internal_error_that_tells_only_the_log(
    house: House, path: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_: object) -> None:
        raise RuntimeError("secret-of-the-cellar")

    monkeypatch.setattr(Catalog, "find_render", stumble)
    answer = ask(house.url, path(STORED))
    assert_refused(answer, 500, "internal")
    for leak in (b"secret-of-the-cellar", b"RuntimeError", b"Traceback", b".py", b"html"):
        assert leak not in answer.raw
    assert "secret-of-the-cellar" in caplog.text
    monkeypatch.undo()
    assert ask(house.url, path(STORED)).status == 200


ACCESS: dict[type[errors.ArchiveError], tuple[int, str]] = {
    errors.UnauthorizedError: (401, "unauthorized"),
    errors.ForbiddenError: (403, "forbidden"),
    errors.RenderNotFoundError: (404, "not_found"),
    errors.RenderConflictError: (409, "conflict"),
}


@pytest.mark.parametrize("error", errors.leaves())
def test_every_error_of_the_tree_has_its_status_and_internal_ones_keep_their_text(
    house: House, error: type[errors.ArchiveError], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise error("what-the-operator-reads")

    monkeypatch.setattr(Catalog, "find_render", refuse)
    status, code = ACCESS.get(error, (500, "internal"))
    answer = ask(house.url, download_path(STORED))
    message = assert_refused(answer, status, code)
    assert ("what-the-operator-reads" in message) == (status != 500)
    assert ("what-the-operator-reads" in caplog.text) == (status == 500)


def test_no_key_nor_its_hash_is_ever_logged_or_answered(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = [LIVE_KEY, TEST_KEY, OTHER_KEY, REVOKED_KEY, GONE_KEY, ACCOUNT_KEY, UNKNOWN_KEY]
    answered = []

    def ask_everything() -> None:
        for key in sent:
            for name in ("stored", "foreign", "gone", "queued", "bare", *DAMAGE):
                answered.append(ask(house.url, download_path(ID[name]), key=key).raw)
                answered.append(ask(house.url, show_path(ID[name]), key=key).raw)
            answered.append(ask(house.url, "/v1/nothing", key=key).raw)
            answered.append(ask(house.url, "/health", method="POST", key=key, more=(b"Content-Length: 0",)).raw)
            answered.append(ask(house.url, show_path(STORED), key=f"{key}\N{EURO SIGN}").raw)

    ask_everything()

    def stumble(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(Catalog, "find_render", stumble)
    ask_everything()
    monkeypatch.setattr(Catalog, "find_key", stumble)
    ask_everything()

    statuses = {take_apart(raw).status for raw in answered}
    assert statuses == {200, 401, 403, 404, 405, 409, 500}
    captured = capfd.readouterr()
    everything = "\n".join([caplog.text, captured.out, captured.err, *(raw.decode("latin-1") for raw in answered)])
    assert "no luck" in everything
    for key in sent:
        assert key not in everything
        assert key.split("_", 2)[2] not in everything
        assert sha256(key.encode()).hexdigest() not in everything


# --- what changes while the server runs ------------------------------------------------------------------------------


class Client:
    """A client that keeps one connection, on which a change must be felt as well."""

    def __init__(self, url: str, key: str = LIVE_KEY) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {key}"}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, target: str) -> tuple[int, bytes]:
        """Return the status and the body."""
        self._connection.request("GET", target, headers=self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def served(world: World) -> Iterator[str]:
    """Serve a filled archive as `serve` does: read-only, while `world.archive` is open for writing."""
    settings = Settings()
    with world.archive, Archive(world.archive.path, read_only=True) as archive, live(archive, settings) as url:
        yield url


def test_a_read_only_archive_is_served(world: World, served: str) -> None:
    for number in range(5):
        answer = ask(served, download_path(render_id(number)))
        assert (answer.status, answer.body) == (200, pdf(f"render {number}"))
    assert_refused(ask(served, download_path(UNKNOWN_ID)), 404, "not_found")
    assert_refused(ask(served, download_path(render_id(0)), key=None), 401, "unauthorized")


def test_a_revoked_key_stops_working_with_the_next_request(world: World, served: str) -> None:
    path = download_path(render_id(0))
    with Client(served) as client, Client(served, TEST_KEY) as other:
        assert client.get(path) == (200, pdf("render 0"))
        world.archive.revoke_key("key-1")
        assert [client.get(path)[0] for _ in range(20)] == [401] * 20
        assert_refused(ask(served, path), 401, "unauthorized")
        assert other.get(path) == (200, pdf("render 0"))


def test_a_deleted_project_is_forbidden_from_the_next_request_on(world: World, served: str, tmp_path: Path) -> None:
    path = download_path(render_id(0))
    deleted = projects()[0] | {"deleted_at": "2026-07-01T00:00:00.000Z"}
    with Client(served) as client:
        assert client.get(path) == (200, pdf("render 0"))
        load(world.archive, tmp_path, "projects", [deleted])
        assert [client.get(path)[0] for _ in range(20)] == [403] * 20
        assert_refused(ask(served, path), 403, "forbidden")


def test_a_new_key_works_with_the_next_request(world: World, served: str) -> None:
    key = world.archive.create_key(NORTHWIND).key
    assert ask(served, download_path(render_id(0)), key=key).status == 200


def test_a_render_is_unknown_then_in_conflict_then_downloaded(world: World, served: str, tmp_path: Path) -> None:
    row = render(50)
    with Client(served) as client:
        assert client.get(download_path(row["id"]))[0] == 404
        load(world.archive, tmp_path, "renders", [row | {"status": "rendering", "asset_key": None}])
        assert client.get(download_path(row["id"]))[0] == 409
        load(world.archive, tmp_path, "renders", [row])
        assert client.get(download_path(row["id"]))[0] == 409
        put(world.bucket, row["asset_key"], pdf("late"))
        summary_of(fetch_assets(world.archive, str(world.bucket)))
        assert client.get(download_path(row["id"])) == (200, pdf("late"))


# --- many at a time --------------------------------------------------------------------------------------------------


def test_parallel_clients_all_get_their_own_bytes(tmp_path: Path) -> None:
    count, rounds = 12, 8
    world = fill(tmp_path, count=count, size_bytes=200_000)
    start = Barrier(count)

    def download(number: int) -> list[bool]:
        expected = pdf(f"render {number}", size_bytes=200_000)
        with Client(url) as client:
            start.wait(TIMEOUT_S)
            return [client.get(download_path(render_id(number))) == (200, expected) for _ in range(rounds)]

    with world.archive, live(world.archive) as url, ThreadPoolExecutor(count) as threads:
        assert list(threads.map(download, range(count))) == [[True] * rounds] * count


def test_good_and_refused_requests_in_parallel_keep_apart(house: House) -> None:
    wanted = [("stored", LIVE_KEY, 200), ("foreign", OTHER_KEY, 200), ("short", TEST_KEY, 200)]
    wanted += [("foreign", LIVE_KEY, 404), ("stored", GONE_KEY, 403), ("stored", REVOKED_KEY, 401)]
    wanted += [("queued", LIVE_KEY, 409), ("truncated", LIVE_KEY, 500)]
    start = Barrier(len(wanted))

    def download(case: tuple[str, str, int]) -> list[bool]:
        name, key, status = case
        start.wait(TIMEOUT_S)
        answers = [ask(house.url, download_path(ID[name]), key=key) for _ in range(10)]
        return [a.status == status and (status != 200 or a.body == house.bodies[name]) for a in answers]

    with ThreadPoolExecutor(len(wanted)) as threads:
        assert list(threads.map(download, wanted)) == [[True] * 10] * len(wanted)


def test_a_client_that_does_not_read_keeps_no_other_waiting(house: House) -> None:
    listener = listen("127.0.0.1:0")
    url = url_of(listener)
    with running(Service(house.archive).app, listener, threads=1), connect(url) as silent, connect(url) as other:
        for connection in (silent, other):
            connection.sendall(request_bytes(url, download_path(ID["large"])))
            assert connection.recv(1) == b"H"
        assert ask(url, "/health").status == 200


def test_clients_that_ask_for_much_at_once_and_read_nothing_keep_no_other_waiting(house: House) -> None:
    wanted = request_bytes(house.url, download_path(ID["large"])).replace(b"Connection: close\r\n", b"")
    with live(house.archive) as url, ExitStack() as slow:
        for _ in range(2 * DEFAULT_THREADS):
            slow.enter_context(connect(url)).sendall(wanted * 4)
        for _ in range(3):
            with connect(url) as connection:
                connection.settimeout(5)
                connection.sendall(request_bytes(url, download_path(STORED)))
                assert take_apart(read_to_end(connection)).body == house.bodies["stored"]


def test_a_request_with_a_large_body_is_refused_before_it_is_read(house: House) -> None:
    answer = ask(house.url, "/health", method="POST", more=(b"Content-Length: 1073741823",))
    assert answer.status == 413
    assert answer.json["error"]["code"] == "bad_request"


def test_a_large_download_takes_no_memory_and_no_temporary_file(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1, size_bytes=30 * MIB)
    words = program("--json", "serve", "--listen", "127.0.0.1:0", archive=world.archive.path)
    environment = {**os.environ, "TMPDIR": "/nonexistent"}
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, env=environment) as serving, ExitStack() as slow:
        assert serving.stdout is not None
        url = json.loads(serving.stdout.readline())["url"]
        for _ in range(6):
            client = slow.enter_context(connect(url))
            client.sendall(request_bytes(url, download_path(render_id(0))))
            client.recv(1)
        assert ask(url, download_path(render_id(0))).body == world.asset(0).read_bytes()
        peak = Path(f"/proc/{serving.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        serving.send_signal(signal.SIGTERM)
    assert int(peak) < 120_000, "kB"


def test_clients_that_only_keep_their_connections_open_keep_no_other_waiting(house: House) -> None:
    with live(house.archive) as url, ExitStack() as idle:
        for _ in range(150):
            idle.enter_context(connect(url))
        with connect(url) as connection:
            connection.settimeout(3)
            connection.sendall(request_bytes(url, "/health"))
            assert take_apart(read_to_end(connection)).status == 200


# --- beginning and ending --------------------------------------------------------------------------------------------


def test_a_download_under_way_is_finished_when_the_server_ends(house: House) -> None:
    leaving = Event()

    def read_late(connection: socket.socket) -> bytes:
        assert leaving.wait(TIMEOUT_S)
        time.sleep(0.05)
        return read_to_end(connection)

    with ThreadPoolExecutor(1) as threads:
        with live(house.archive) as url:
            connection = connect(url)
            connection.sendall(request_bytes(url, download_path(ID["large"])))
            first = connection.recv(1)
            rest = threads.submit(read_late, connection)
            leaving.set()
        with connection:
            assert take_apart(first + rest.result()).body == house.bodies["large"]


def test_after_the_end_nobody_listens(house: House) -> None:
    with live(house.archive) as url:
        assert ask(url, "/health").status == 200
    with pytest.raises(ConnectionRefusedError):
        connect(url)


def test_an_address_that_is_taken_is_told() -> None:
    with listen("127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(errors.RequestError, match=rf"Cannot listen on 127\.0\.0\.1:{port}"):
            listen(f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "..", "a" * 70])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(errors.RequestError, match=f"Cannot listen on {host}:0"):
        listen(f"{host}:0")
