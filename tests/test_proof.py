"""Proof from outside: signatures by a real ssh-keygen and ssh-agent, timestamps by a real authority of openssl."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import NamedTuple

import pytest

from craftkit_archive import Archive
from craftkit_archive.errors import AssetMissingError
from craftkit_archive.stores.bucket import BucketStore
from tests.services import BUCKET
from tests.worlds import ROOT, Done, World, command, needs

EXPORTS = {"dir": "out", "zip": "out.zip", "tar": "out.tar", "bag": "out", "packed bag": "out.zip"}


class Signer(NamedTuple):
    """A key pair, and the file that allows its owner to sign."""

    key: Path
    allowed: Path


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """Return a key of SSH without a passphrase."""
    return _signer(tmp_path / "id_ed25519", "records@northwind.example")


def _signer(key: Path, name: str, kind: str = "ed25519") -> Signer:
    run(needs("ssh-keygen"), "-q", "-t", kind, "-N", "", "-C", "", "-f", key)
    allowed = key.with_suffix(".allowed")
    allowed.write_text(f"{name} {key.with_suffix('.pub').read_text()}")
    return Signer(key, allowed)


def run(*words: str | Path, stdin: bytes = b"", code: int = 0) -> bytes:
    """Run a program that must end with this code, and return what it wrote."""
    done = subprocess.run(words, input=stdin, capture_output=True)
    assert (done.returncode == 0) == (code == 0), (words, done.stdout, done.stderr)
    return done.stdout


def verify_signature(signer: Signer, file: Path, *, code: int = 0) -> None:
    """Verify as anybody can, without this program."""
    words: list[str | Path] = [
        "-Y",
        "verify",
        "-f",
        signer.allowed,
        "-I",
        "records@northwind.example",
        "-n",
        "craftkit-archive",
    ]
    run("ssh-keygen", *words, "-s", f"{file}.sig", stdin=file.read_bytes(), code=code)


def at(world: World, *words: str | Path, env: dict[str, str] | None = None) -> Done:
    return command(*words, archive=world.archive.path, env=env)


def whats(world: World) -> list[str]:
    with Archive(world.archive.path, read_only=True) as archive:
        return [event.what for event in archive.catalog.events()]


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_signed_seal_is_verified_by_anybody(world: World, signer: Signer, tmp_path: Path) -> None:
    file = tmp_path / "seal.txt"
    done = at(world, "seal", "--sign", signer.key, "-o", file)
    assert done.code == 0, done.err
    verify_signature(signer, file)
    said = dict(line.split(": ") for line in file.read_text().splitlines())
    assert said["Seal"] == done.out.strip()
    assert said["PDFs"] == "5"
    # One signature vouches for the log too.
    with Archive(world.archive.path, read_only=True) as archive:
        *_, sealed = archive.catalog.events()
    assert said["Audit-Event"] == f"{sealed.number} {sealed.hash}"
    assert (sealed.what, sealed.details["seal"]) == ("seal", said["Seal"])
    file.write_text(file.read_text().replace("PDFs: 5", "PDFs: 6"))
    verify_signature(signer, file, code=255)


def test_a_signed_head_proves_the_log(world: World, signer: Signer, tmp_path: Path) -> None:
    file = tmp_path / "head.txt"
    done = at(world, "audit", "head", "--sign", signer.key, "-o", file)
    assert done.code == 0, done.err
    verify_signature(signer, file)
    noted = file.read_text().splitlines()[0].removeprefix("Audit-Event: ")
    assert noted == done.out.strip()
    assert at(world, "audit", "verify", "--head", noted).code == 0


@pytest.mark.parametrize("form", EXPORTS)
def test_a_signed_export_is_checked_in_every_form(world: World, signer: Signer, tmp_path: Path, form: str) -> None:
    target = tmp_path / EXPORTS[form]
    words = ["--format", "bagit"] if "bag" in form else []
    assert at(world, "export", target, "--sign", signer.key, *words).code == 0
    done = command("--json", "export-check", target, "--allowed-signers", signer.allowed)
    assert (done.code, done.lines[-1]["details"]["signer"]) == (0, "records@northwind.example"), done.err
    assert command("export-check", target).code == 0
    other = _signer(tmp_path / "id_other", "somebody@else.example")
    done = command("export-check", target, "--allowed-signers", other.allowed)
    assert done.code == 1
    assert "seal.txt.sig" in done.err
    if form == "bag":
        assert "seal.txt.sig" in (target / "tagmanifest-sha256.txt").read_text()
        verify_signature(signer, target / "seal.txt")


def test_an_export_that_is_not_signed_any_more_has_no_old_signature(
    world: World, signer: Signer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert at(world, "export", out, "--sign", signer.key).code == 0
    assert at(world, "export", out).code == 0
    assert not (out / "seal.txt.sig").exists()
    assert command("export-check", out).code == 0
    assert command("export-check", out, "--allowed-signers", signer.allowed).code == 1


def test_a_seal_that_was_replaced_after_signing_is_found(world: World, signer: Signer, tmp_path: Path) -> None:
    out, less = tmp_path / "out", tmp_path / "less"
    assert at(world, "export", out, "--sign", signer.key).code == 0
    assert at(world, "export", less, "--sign", signer.key, "--until", "2026-01-01").code in (0, 2)
    # Everything is written anew but the signature, which only the key can make.
    signature = (out / "seal.txt.sig").read_bytes()
    at(world, "export", out, "--sign", _signer(tmp_path / "id_forger", "x").key, "--project", "northwind")
    text = (out / "seal.txt").read_text().replace("PDFs: ", "PDFs: 1")
    (out / "seal.txt").write_text(text)
    (out / "seal.txt.sig").write_bytes(signature)
    assert command("export-check", out, "--allowed-signers", signer.allowed).code == 1


def test_what_was_signed_for_another_purpose_is_refused(world: World, signer: Signer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert at(world, "export", out, "--sign", signer.key).code == 0
    text = (out / "seal.txt").read_bytes()
    for_git = run("ssh-keygen", "-Y", "sign", "-f", signer.key, "-n", "git", stdin=text)
    (out / "seal.txt.sig").write_bytes(for_git)
    assert command("export-check", out, "--allowed-signers", signer.allowed).code == 1


@contextmanager
def agent(folder: Path) -> Iterator[dict[str, str]]:
    """Run an ssh-agent, and yield the environment that finds it."""
    socket = str(folder / "agent")
    process = subprocess.Popen([needs("ssh-agent"), "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        while not Path(socket).exists():
            assert process.poll() is None
        yield {"SSH_AUTH_SOCK": socket}
    finally:
        process.terminate()
        process.wait()


def test_a_key_that_only_the_agent_holds_signs(
    world: World, signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("agent")
    with agent(folder) as env:
        subprocess.run([needs("ssh-add"), "-q", signer.key], env={**os.environ, **env}, check=True)
        signer.key.unlink()
        public = signer.key.with_suffix(".pub")
        done = at(world, "seal", "--sign", public, "-o", folder / "seal.txt", env=env)
        assert done.code == 0, done.err
    verify_signature(signer, folder / "seal.txt")
    done = at(world, "seal", "--sign", public, "-o", folder / "other.txt", env={"SSH_AUTH_SOCK": ""})
    assert done.code == 2
    assert not (folder / "other.txt").exists()


def test_a_key_that_cannot_sign_stops_an_export_before_its_first_byte(world: World, tmp_path: Path) -> None:
    needs("ssh-keygen")
    for key in (tmp_path / "nothing", world.asset(1)):
        done = at(world, "export", tmp_path / "out", "--sign", key)
        assert done.code == 2
        assert "Cannot sign" in done.err
        assert not (tmp_path / "out").exists()


def test_without_ssh_keygen_a_sentence_says_so(world: World, tmp_path: Path) -> None:
    done = at(world, "seal", "--sign", tmp_path / "key", env={"PATH": str(tmp_path)})
    assert (done.code, "OpenSSH" in done.err) == (2, True)


def test_the_commands_in_the_docs_verify_a_signature(world: World, signer: Signer, tmp_path: Path) -> None:
    found = re.search(r"```sh\n(echo \"records@.+?)```", (ROOT / "docs/records.md").read_text(), re.DOTALL)
    assert found is not None
    assert at(world, "seal", "--sign", signer.key, "-o", tmp_path / "seal.txt").code == 0
    lines = found[1].splitlines()[:2]
    run("bash", "-ec", f"cd {tmp_path}\n" + "\n".join(lines))
    (tmp_path / "seal.txt").write_text("Seal: another\n")
    run("bash", "-ec", f"cd {tmp_path}\n" + "\n".join(lines), code=1)


# --- timestamps ------------------------------------------------------------------------------------------------------


class Authority(NamedTuple):
    """A timestamp authority of openssl: its configuration, its certificate, and where it listens."""

    config: Path
    certificate: Path
    url: str

    def reply(self, request: Path, reply: Path) -> None:
        """Answer a request that was carried here as a file."""
        run("openssl", "ts", "-reply", "-config", self.config, "-queryfile", request, "-out", reply)


CONFIG = """
[req]
distinguished_name = name
x509_extensions = certificate
prompt = no
[name]
CN = Test Authority
[certificate]
extendedKeyUsage = critical,timeStamping
keyUsage = critical,digitalSignature
[tsa]
default_tsa = tsa_section
[tsa_section]
serial = {0}/serial
signer_cert = {0}/tsa.pem
signer_key = {0}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


# The ends of their object identifiers, in DER.
SHA256, SHA512 = bytes.fromhex("0304020105000420"), bytes.fromhex("0304020305000420")


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """Run an authority on a loopback address."""
    needs("openssl")
    folder = tmp_path_factory.mktemp("authority")
    config = folder / "openssl.cnf"
    config.write_text(CONFIG.format(folder))
    (folder / "serial").write_text("01\n")
    made = ("-keyout", folder / "tsa.key", "-out", folder / "tsa.pem")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-config", config, *made)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/timestamp-query"
            (folder / "asked").write_bytes(asked)
            match self.path:
                case "/tsr":
                    self._send(_answer(config, folder / "asked"))
                case "/stale":  # what it answered to somebody else
                    self._send((folder / "stale").read_bytes())
                case "/refuse":  # it takes what is asked for another algorithm
                    (folder / "asked").write_bytes(asked.replace(SHA256, SHA512))
                    self._send(_answer(config, folder / "asked"))
                case "/page":
                    self._send(b"<html>not here</html>")
                case _:
                    self.send_error(503)

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        run("openssl", "ts", "-query", "-data", config, "-sha256", "-cert", "-out", folder / "stale.tsq")
        (folder / "stale").write_bytes(_answer(config, folder / "stale.tsq"))
        yield Authority(config, folder / "tsa.pem", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def _answer(config: Path, request: Path) -> bytes:
    return subprocess.run(
        ["openssl", "ts", "-reply", "-config", config, "-queryfile", request], capture_output=True, check=True
    ).stdout


def verify_timestamp(authority: Authority, file: Path, *, code: int = 0) -> None:
    """Verify as anybody can, without this program."""
    run("openssl", "ts", "-verify", "-data", file, "-in", f"{file}.tsr", "-CAfile", authority.certificate, code=code)


def test_a_stamped_seal_is_verified_by_openssl(
    world: World, signer: Signer, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "seal.txt"
    done = at(world, "seal", "--sign", signer.key, "--timestamp", f"{authority.url}/tsr", "-o", file)
    assert done.code == 0, done.err
    verify_signature(signer, file)
    verify_timestamp(authority, file)
    assert whats(world)[-2:] == ["seal", "seal timestamp"]
    file.write_text(file.read_text() + "\n")
    verify_timestamp(authority, file, code=1)


def test_a_box_without_a_network_is_stamped_by_files(world: World, authority: Authority, tmp_path: Path) -> None:
    file, request, reply = (tmp_path / name for name in ("seal.txt", "seal.tsq", "answer.tsr"))
    assert at(world, "seal", "--timestamp-request", request, "-o", file).code == 0
    sealed = file.read_bytes()
    authority.reply(request, reply)
    done = at(world, "seal", "--timestamp-reply", reply, "-o", file)
    assert done.code == 0, done.err
    assert file.read_bytes() == sealed
    verify_timestamp(authority, file)
    file.write_bytes(sealed + b"\n")
    done = at(world, "seal", "--timestamp-reply", reply, "-o", file)
    assert (done.code, "something else" in done.err) == (16, True)
    assert at(world, "seal", "--timestamp-reply", file, "-o", file).code == 16
    assert at(world, "seal", "--timestamp-reply", tmp_path / "nothing", "-o", file).code == 2


@pytest.mark.long
@pytest.mark.parametrize("path", ["/stale", "/page", "/busy", "/refuse"])
def test_an_authority_that_does_not_stamp_this_is_16(
    world: World, authority: Authority, tmp_path: Path, path: str
) -> None:
    file = tmp_path / "seal.txt"
    done = at(world, "seal", "--timestamp", f"{authority.url}{path}", "-o", file)
    assert done.code == 16, done.err
    assert done.err.count("\n") <= 3
    assert not file.with_name("seal.txt.tsr").exists()


def test_an_authority_that_is_not_there_or_no_url(world: World, tmp_path: Path) -> None:
    assert at(world, "seal", "--timestamp", "http://127.0.0.1:9/tsr", "-o", tmp_path / "seal.txt").code == 16
    for url in ("ftp://x", "tsa.example.org", "http://[", ""):
        done = at(world, "seal", "--timestamp", url, "-o", tmp_path / "seal.txt")
        assert done.code == 2 if url else done.code == 0, (url, done.err)


def test_options_that_contradict_each_other_are_2(world: World, tmp_path: Path) -> None:
    assert at(world, "seal", "--check", "0" * 64, "--sign", tmp_path / "key").code == 2
    assert at(world, "seal", "--timestamp-reply", tmp_path / "x", "--sign", tmp_path / "key").code == 2


def test_a_seal_on_read_only_media_says_that_it_is_not_in_the_log(world: World, tmp_path: Path) -> None:
    world.archive.catalog.close()
    with Archive(world.archive.path, sealed=True) as archive:
        _plan, *notes, _summary = archive_seal(archive)
    assert ["not in the audit log" in note for note in notes] == [True]


def archive_seal(archive: Archive) -> list[str]:
    """Make a seal, and return what is said of it."""
    from craftkit_archive import seal_archive

    return [getattr(record, "detail", "") for record in seal_archive(archive)]


@pytest.mark.long
@pytest.mark.parametrize("name", ["out", "out.zip", "bag"])
def test_an_export_is_stamped_and_signed(
    world: World, signer: Signer, authority: Authority, tmp_path: Path, name: str
) -> None:
    form: list[str] = ["--format", "bagit"] if name == "bag" else []
    words: list[str | Path] = ["export", tmp_path / name, *form, "--sign", signer.key]
    done = at(world, *words, "--timestamp", f"{authority.url}/tsr")
    assert done.code == 0, done.err
    folder = tmp_path / name
    if name.endswith(".zip"):
        folder = tmp_path / "unpacked"
        shutil.unpack_archive(tmp_path / name, folder)
    verify_timestamp(authority, folder / "seal.txt")
    verify_signature(signer, folder / "seal.txt")
    assert command("export-check", tmp_path / name).code == 0
    with Archive(world.archive.path, read_only=True) as archive:
        details = next(event.details for event in archive.catalog.events() if event.what == "export")
    assert (details["signed"], details["stamped"]) == (True, True)
    # Made anew without them, what vouched for the old seal must not stay.
    assert at(world, "export", tmp_path / name, *form).code == 0
    assert not (tmp_path / name / "seal.txt.tsr").exists()
    assert not (tmp_path / name / "seal.txt.sig").exists()
    assert command("export-check", tmp_path / name).code == 0


def test_an_authority_that_refuses_costs_no_export(world: World, authority: Authority, tmp_path: Path) -> None:
    done = at(world, "export", tmp_path / "out", "--timestamp", f"{authority.url}/refuse")
    assert done.code == 16
    assert not (tmp_path / "out").exists()


def test_an_old_signature_does_not_stay_in_a_bucket(world: World, signer: Signer, moto: str) -> None:
    target = f"s3://{BUCKET}/signed-{token_hex(4)}"
    service = ["--endpoint-url", moto]
    assert at(world, "export", target, *service, "--sign", signer.key).code == 0
    found = BucketStore(f"{target}?endpoint_url={moto}")
    assert found.find("seal.txt.sig").size_bytes
    assert at(world, "export", target, *service).code == 0
    with pytest.raises(AssetMissingError):
        found.find("seal.txt.sig")
    assert found.find("seal.txt").size_bytes
