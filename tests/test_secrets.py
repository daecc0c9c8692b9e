"""Secrets come from three places, in one order, and no message shows them."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftkit_archive.errors import RequestError
from craftkit_archive.secrets import MAX_BYTES, is_given, read_secret
from craftkit_archive.sources.api import CraftkitApi
from craftkit_archive.values import origin_of

NAME = "CRAFTKIT_ARCHIVE_SMTP_PASSWORD"
CREDENTIAL = "craftkit-archive-smtp-password"


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NAME, f"{NAME}_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def test_a_secret_is_looked_for_in_three_places_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_secret(NAME) is None
    assert not is_given(NAME)
    (tmp_path / CREDENTIAL).write_bytes(b"from systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret(NAME) == "from systemd"
    (tmp_path / "file").write_bytes(b"from a file\r\n")
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "file"))
    assert read_secret(NAME) == "from a file"
    monkeypatch.setenv(NAME, "from the environment\n")
    assert read_secret(NAME) == "from the environment"
    assert is_given(NAME)
    monkeypatch.setenv(NAME, "")
    assert read_secret(NAME) == "from a file"


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "file"))
    assert read_secret(NAME) is None


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff\0"), min_size=1))
def test_a_secret_is_what_the_file_holds(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Blanks at its ends may be part of it; what an editor adds is not."""
    file = tmp_path_factory.mktemp("secret") / "file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{NAME}_FILE", str(file))
        for before, after in ((b"", b""), (b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n")):
            file.write_bytes(before + text.encode() + after)
            assert read_secret(NAME) == text


@pytest.mark.parametrize("kind", ["missing", "folder", "not UTF-8", "endless", "name too long"])
def test_a_file_that_cannot_be_read_is_named_by_its_variable_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "S3cret"
    match kind:
        case "folder":
            file.mkdir()
        case "not UTF-8":
            file.write_bytes(b"S3cret\xff")
        case "endless":
            file = Path("/dev/zero")
        case "name too long":
            file = Path("S3cret" * 1000)
    monkeypatch.setenv(f"{NAME}_FILE", str(file))
    assert is_given(NAME)
    with pytest.raises(RequestError) as raised:
        read_secret(NAME)
    assert f"{NAME}_FILE" in str(raised.value)
    assert "S3cret" not in str(raised.value)


def test_a_secret_has_a_largest_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MAX_BYTES)
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "file"))
    assert read_secret(NAME) == "x" * MAX_BYTES


def test_a_credential_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / CREDENTIAL).mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(RequestError, match=f"systemd credential {CREDENTIAL}: is a directory"):
        read_secret(NAME)


@pytest.mark.parametrize("way", ["file", "credential"])
def test_the_key_of_an_api_comes_from_there_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str) -> None:
    monkeypatch.delenv("CRAFTKIT_API_KEY", raising=False)
    (tmp_path / "craftkit-api-key").write_text("ck_live_from_a_file\n")
    if way == "file":
        monkeypatch.setenv("CRAFTKIT_API_KEY_FILE", str(tmp_path / "craftkit-api-key"))
    else:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert CraftkitApi("https://api.example.org").key == "ck_live_from_a_file"


def test_no_secret_is_read_where_there_is_no_folder_for_it() -> None:
    assert "CREDENTIALS_DIRECTORY" not in os.environ
    assert not is_given("HOME_OF_NOBODY")


SECRET = st.text("0123456789/:@?#%&=+.-_\\ ", min_size=0, max_size=8).map(lambda text: f"S3{text}cret")


@given(
    scheme=st.sampled_from(["http", "https", "json", "tgram", "HTTP"]),
    user=st.one_of(st.just(""), SECRET.map("{}@".format), SECRET.map("u:{}@".format)),
    host=st.sampled_from(["h.example.org", "h.example.org:8443", "[::1]:80", "127.0.0.1"]),
    rest=st.one_of(st.just(""), SECRET.map("/{}".format), SECRET.map("?k={}".format), SECRET.map("#{}".format)),
)
def test_what_is_shown_of_an_address_holds_no_secret(scheme: str, user: str, host: str, rest: str) -> None:
    shown = origin_of(f"{scheme}://{user}{host}{rest}")
    assert "S3" not in shown
    assert "cret" not in shown
    assert shown.startswith(f"{scheme}://")
    if not user and "@" not in rest:
        assert shown == f"{scheme}://{host}"


@given(st.text())
def test_what_is_shown_of_any_text_is_short_and_has_no_path(text: str) -> None:
    shown = origin_of(text)
    assert shown == "…" or shown.partition("://")[1]
    assert "/" not in shown.partition("://")[2]
    assert "@" not in shown
