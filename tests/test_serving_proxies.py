"""Real clients, straight and through nginx, Caddy and HAProxy as `docs/operations` ships them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.services import _wait_for, free_port
from tests.test_serving import Serving, download, serving
from tests.worlds import LIVE_KEY, ROOT, fill, needs, render_id

SHIPPED = ROOT / "docs/operations"
HOST = "pdfs.example.org"
BODY_BYTES = 3_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, bytes]]:
    """Serve one PDF as the shipped unit does."""
    world = fill(tmp_path_factory.mktemp("proxied"), count=1, size_bytes=BODY_BYTES)
    world.archive.catalog.close()
    words = ("--workers", "1", "--trusted-proxy", "127.0.0.1", "--public-url", f"https://{HOST}")
    with serving(world.archive.path, *words) as served:
        yield served, world.asset(0).read_bytes()


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    plain = serialization.NoEncryption()
    pem = signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(secret)
    (folder / "both.pem").write_bytes(pem + secret)
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def proxy(kind: str, folder: Path, upstream: str) -> Iterator[int]:
    """Run a proxy with its shipped configuration, of which only addresses and paths are changed; give its port."""
    port = free_port()
    cert, key = _certificate(folder)
    if kind == "nginx":
        text = (SHIPPED / "nginx.conf").read_text()
        text = text.replace("127.0.0.1:8080", upstream).replace("listen 443", f"listen 127.0.0.1:{port}")
        text = re.sub(r"/etc/ssl/\S+\.pem", str(cert), text)
        text = re.sub(r"/etc/ssl/private/\S+\.key", str(key), text)
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        head = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
        config.write_text(f"{head} http {{ access_log off; {temporary} {text} }}")
        words = [needs("nginx"), "-c", str(config)]
    elif kind == "haproxy":
        text = (SHIPPED / "haproxy.cfg").read_text().replace("127.0.0.1:8080", upstream)
        text = text.replace("bind :443", f"bind 127.0.0.1:{port}")
        text = text.replace("/etc/ssl/private/pdfs.example.org.pem", str(folder / "both.pem"))
        config = folder / "haproxy.cfg"
        config.write_text(text)
        words = [needs("haproxy"), "-f", str(config)]
    else:
        text = (SHIPPED / "Caddyfile").read_text().replace("127.0.0.1:8080", upstream)
        text = text.replace("tls internal", f"tls {cert} {key}").replace(f"\n{HOST} {{", f"\n{HOST}:{port} {{")
        config = folder / "Caddyfile"
        config.write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{text}")
        words = [needs("caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]
    path = f"{os.environ['PATH']}:/usr/sbin"
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "PATH": path}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()


def curl(port: int, path: str, folder: Path, *words: str) -> tuple[str, bytes]:
    """Ask through TLS, and return the status line, the version and the body."""
    out = folder / "out"
    out.unlink(missing_ok=True)
    command = [
        needs("curl"),
        "--silent",
        "--insecure",
        "--output",
        str(out),
        "--write-out",
        "%{http_code} %{http_version}",
    ]
    where = ["--resolve", f"{HOST}:{port}:127.0.0.1", f"https://{HOST}:{port}{path}"]
    key = ["--header", f"Authorization: Bearer {LIVE_KEY}"]
    done = subprocess.run([*command, *key, *words, *where], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout, out.read_bytes() if out.exists() else b""


@pytest.mark.parametrize("kind", ["nginx", "caddy", "haproxy"])
def test_through_the_shipped_proxies(served: tuple[Serving, bytes], tmp_path: Path, kind: str) -> None:
    server, body = served
    with proxy(kind, tmp_path, server.url.removeprefix("http://")) as port:
        assert curl(port, download(0), tmp_path) == ("200 2", body)
        assert curl(port, download(0), tmp_path, "--http1.1", "--header", "Expect: 100-continue") == ("200 1.1", body)
        assert curl(port, download(0), tmp_path, "--range", "10-19") == ("206 2", body[10:20])
        status, shown = curl(
            port, f"/v1/renders/{render_id(0)}", tmp_path, "--header", "X-Forwarded-Host: evil.example"
        )
        assert status == "200 2"
        assert f'"pollUrl":"https://{HOST}/v1/'.encode() in shown
        status, refused = curl(port, download(7), tmp_path)
        assert (status, b'"code":"not_found"' in refused) == ("404 2", True)
    with proxy(kind, tmp_path, f"127.0.0.1:{free_port()}") as port:
        status, refused = curl(port, download(0), tmp_path)
        assert (status[:2], b'{"error":{"code":"unavailable"' in refused) == ("50", True)


def test_wget_goes_on_where_it_stopped(served: tuple[Serving, bytes], tmp_path: Path) -> None:
    server, body = served
    (tmp_path / "x.pdf").write_bytes(body[:1_000_000])
    words = [needs("wget"), "--quiet", "--continue", "--output-document", "x.pdf", server.url + download(0)]
    subprocess.run([*words, f"--header=Authorization: Bearer {LIVE_KEY}"], cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "x.pdf").read_bytes() == body


def test_aria2_takes_eight_parts_at_once(served: tuple[Serving, bytes], tmp_path: Path) -> None:
    server, body = served
    words = [needs("aria2c"), "-x8", "-s8", "-k1M", "--quiet", "--out", "x.pdf", server.url + download(0)]
    subprocess.run([*words, f"--header=Authorization: Bearer {LIVE_KEY}"], cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "x.pdf").read_bytes() == body


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_pythons_other_clients_are_answered(served: tuple[Serving, bytes], library: str) -> None:
    server, body = served
    scripts = {
        "httpx": "import httpx, sys; print(len(httpx.get(sys.argv[1], headers=h).content))",
        "aiohttp": "import aiohttp, asyncio, sys\nasync def main():\n async with aiohttp.ClientSession() as s:\n"
        "  async with s.get(sys.argv[1], headers=h, expect100=True) as r: print(len(await r.read()))\n"
        "asyncio.run(main())",
    }
    headers = f"h = {{'Authorization': 'Bearer {LIVE_KEY}', 'Expect': '100-continue'}}\n"
    words = [sys.executable, "-c", headers + scripts[library], server.url + download(0)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == str(len(body)), done.stderr


JAVA = """
import java.net.URI;
import java.net.http.*;
import java.time.Duration;

class Download {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(words[2])).build();
        for (boolean expect : new boolean[] {true, false, true}) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0])).header("Authorization", words[1])
                .expectContinue(expect).timeout(Duration.ofSeconds(20)).GET().build();
            HttpResponse<byte[]> answer = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
            System.out.println(answer.statusCode() + " " + answer.body().length);
        }
    }
}
"""


@pytest.mark.long
def test_javas_client_is_answered_whether_it_expects_or_not(served: tuple[Serving, bytes], tmp_path: Path) -> None:
    server, body = served
    (tmp_path / "Download.java").write_text(JAVA)
    subprocess.run([needs("javac"), "Download.java"], cwd=tmp_path, check=True, timeout=60)
    for path, expected in ((download(0), f"200 {len(body)}\n"), ("/health", "200 15\n")):
        for version in ("HTTP_2", "HTTP_1_1"):  # the first asks for an upgrade, too
            words = [needs("java"), "Download", server.url + path, f"Bearer {LIVE_KEY}", version]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.stdout == expected * 3, done.stderr


GO = """
package main

import (
    "fmt"
    "io"
    "net/http"
    "os"
    "time"
)

func main() {
    transport := &http.Transport{ExpectContinueTimeout: 20 * time.Second}
    client := &http.Client{Timeout: 20 * time.Second, Transport: transport}
    for _, header := range [][2]string{{"Expect", "100-continue"}, {"Range", "bytes=1000-1999"},
        {"Expect", "100-continue"}, {"Range", "bytes=-500"}, {"X-Nothing", ""}} {
        request, err := http.NewRequest("GET", os.Args[1], nil)
        if err != nil {
            panic(err)
        }
        request.Header.Set("Authorization", os.Args[2])
        request.Header.Set(header[0], header[1])
        answer, err := client.Do(request)
        if err != nil {
            panic(err)
        }
        body, err := io.ReadAll(answer.Body)
        if err != nil {
            panic(err)
        }
        fmt.Println(answer.StatusCode, len(body), answer.Header.Get("Content-Range"))
    }
}
"""


@pytest.mark.long
def test_gos_client_is_answered_and_gets_its_ranges(served: tuple[Serving, bytes], tmp_path: Path) -> None:
    server, body = served
    (tmp_path / "download.go").write_text(GO)
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOPATH": str(tmp_path / "go"), "CGO_ENABLED": "0"}
    words = [needs("go"), "run", "download.go", server.url + download(0), f"Bearer {LIVE_KEY}"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    size = len(body)
    assert [line.strip() for line in done.stdout.splitlines()] == [
        f"200 {size}",
        f"206 1000 bytes 1000-1999/{size}",
        f"200 {size}",
        f"206 500 bytes {size - 500}-{size - 1}/{size}",
        f"200 {size}",
    ], done.stderr


def test_the_images_health_check_says_whether_the_server_is_ready(tmp_path: Path) -> None:
    text = (ROOT / "docs/operations/Dockerfile").read_text()
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    words = json.loads(found[1].replace("\\\n", ""))
    assert words[0] == "python"
    world = fill(tmp_path, count=1)
    world.archive.catalog.close()

    def check(server: Serving) -> int:
        script = words[2].replace("127.0.0.1:8080", server.url.removeprefix("http://"))
        return subprocess.run([sys.executable, words[1], script], capture_output=True, timeout=30).returncode

    with serving(world.archive.path, "--workers", "1") as server:
        assert check(server) == 0
        Path(world.archive.store.address).rename(tmp_path / "unmounted")
        assert check(server) == 1


def test_every_program_of_this_file_is_installed_by_ci() -> None:
    listed = (ROOT / ".ci/run").read_text()
    for name in ("nginx", "caddy", "haproxy", "wget", "aria2", "systemd-analyze", "default-jdk-headless", "golang-go"):
        assert name in listed
    assert shutil.which("sh")
