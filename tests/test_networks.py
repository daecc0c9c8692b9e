"""What lies between us and a bucket or an API: certificates, proxies, slow lines, a full disk for what arrives."""

import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from craftkit_archive.errors import AssetUnavailableError, NotWritableError, RemoteError, RequestError
from craftkit_archive.proof.timestamps import fetch_timestamp
from craftkit_archive.sources import api as craftkit_api
from craftkit_archive.sources.api import CraftkitApi
from craftkit_archive.stores import aws
from craftkit_archive.stores.bucket import BucketStore, bucket_address
from tests.quirky_s3 import quirky_s3
from tests.receivers import http_receiver

BODY = b"%PDF-1.4\n" + bytes(3 << 20)
# To the quirky service, the API's version is a bucket.
HELD = {"a.pdf": BODY, "renders/a": b"{}", "renders/a/download": BODY}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, _credentials: None) -> None:
    """Keep the pauses short, and take no proxy from the environment."""
    monkeypatch.setattr(aws, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(craftkit_api, "PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("CRAFTKIT_API_KEY", "ck_live_for_tests")
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def ask_bucket(url: str) -> None:
    """Read an object of a bucket at a service."""
    with BucketStore(bucket_address("s3://bucket", endpoint_url=url)).open("a.pdf") as found:
        list(found.chunks())


def ask_api(url: str) -> None:
    """Ask an API for a render."""
    CraftkitApi(url).describe("a")


ASK = pytest.mark.parametrize("ask", [ask_bucket, ask_api])


@ASK
def test_a_certificate_that_nobody_trusts_stops_it_and_says_what_to_set(
    certificate: Path, ask: Callable[[str], None]
) -> None:
    with quirky_s3(certificate=certificate) as service, pytest.raises(RemoteError, match="SSL_CERT_FILE"):
        ask(service.url)
    assert service.asked == []


@ASK
def test_a_certificate_is_trusted_if_it_is_named(
    certificate: Path, ask: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with quirky_s3(certificate=certificate) as service:
        service.objects |= HELD
        ask(service.url)
    assert service.asked


def test_certificates_that_cannot_be_read_are_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with quirky_s3() as service, pytest.raises(RequestError, match=r"none\.pem"):
        ask_bucket(service.url)


def test_a_timestamp_is_asked_for_through_the_proxy_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://user:p%40ss@"))
        with pytest.raises(RemoteError):  # it is no authority
            fetch_timestamp(b"text", "http://tsa.example.org/tsr")
    [request] = proxy.got
    assert request.path == "http://tsa.example.org/tsr"
    assert request.headers["proxy-authorization"] == f"Basic {b64encode(b'user:p@ss').decode()}"


@ASK
def test_requests_go_through_the_proxy_of_the_environment(
    ask: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quirky_s3() as proxy:
        proxy.objects |= HELD
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://user:p%40ss@"))
        ask("http://service.example:9000")
    assert {headers["host"] for headers in proxy.headers} == {"service.example:9000"}
    assert proxy.headers[0]["proxy-authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize("proxy", ["socks5://u:secret@127.0.0.1:1", "http://u:secret@127.0.0.1:99999"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(RequestError, match="proxy") as caught:
        ask_api("http://service.example")
    assert "secret" not in str(caught.value)


class Drip(BaseHTTPRequestHandler):
    """Sends a byte now and then."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a download."""
        self.send_response_only(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def dripping() -> Iterator[str]:
    """Return the URL of an API whose bodies drip."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
        server.daemon_threads = True
        server.block_on_close = False
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_pdf_that_drips_is_given_up(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(craftkit_api, "LEAST_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(AssetUnavailableError, match="bytes came in"):
        CraftkitApi(dripping).open("a", "a.pdf")
    assert time.monotonic() - began < 10


def test_no_room_for_what_arrives_is_not_the_networks_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with quirky_s3() as service:
        service.objects |= HELD
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(NotWritableError, match="gone"):
            CraftkitApi(service.url).open("a", "a.pdf")
    assert len(service.asked) == 1
