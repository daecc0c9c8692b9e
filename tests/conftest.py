"""Fixtures that more than one file uses."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import create_loader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import Catalog
from tests.browser import Browser
from tests.services import CREDENTIALS, Database, RealService, moto_server, postgres_server, rclone_server
from tests.worlds import World, fill, needs

# An installed program is compiled once. Where this is set, each of the thousand commands that the tests start would be
# compiled anew, which takes longer than all that most of them do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        yield


@pytest.fixture(scope="session", autouse=True)
def _botocore_models() -> Iterator[None]:
    """Let all sessions of botocore share what it reads of its own files: each alone takes a quarter of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lru_cache(create_loader))
        yield


@pytest.fixture(scope="session")
def moto(_credentials: None) -> Iterator[str]:
    """Return the URL of a mocked S3 that accepts anyone."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def rclone(_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """Return a real S3 server."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as service:
        yield service


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    """Return a real PostgreSQL."""
    with postgres_server() as database:
        yield database


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1, and the certificate of its authority."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "server")]
    now = datetime.now(UTC)

    def sign(number: int) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            # From Python 3.13 on, the authority's identity has to be said, as RFC 5280 demands.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[number].public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, number == 0, number == 0, False, False), critical=True
            )
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        return builder.sign(keys[0], hashes.SHA256())

    path = tmp_path_factory.mktemp("tls") / "both.pem"
    form = serialization.Encoding.PEM
    key = keys[1].private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key + sign(1).public_bytes(form) + sign(0).public_bytes(form))
    return path


@pytest.fixture(autouse=True)
def _catalogs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the catalogs that a test leaves open: from Python 3.13 on, SQLite complains of each.

    A constructor that raises has to clean up by itself, and does not get here.
    """
    opened: list[Catalog] = []
    real = Catalog.__init__

    def note(self: Catalog, *given: Any, **options: Any) -> None:
        real(self, *given, **options)
        opened.append(self)

    monkeypatch.setattr(Catalog, "__init__", note)
    yield
    for catalog in opened:
        # Not `close`, which also brings the log into a file that may be gone or damaged by now.
        connection = getattr(catalog._local, "connection", None)
        if connection is not None:
            connection.close()
            del catalog._local.connection


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an empty archive."""
    return Archive.create(tmp_path / "archive")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive with five fetched renders."""
    return fill(tmp_path)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return the one Chromium of this run; see `browser`."""
    with Browser(needs("chromium"), tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Return a headless Chromium that knows nothing yet; whatever its page complains of fails the test."""
    chromium.renew()
    yield chromium
    assert chromium.problems == []
