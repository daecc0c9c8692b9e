"""SSH signatures, made and checked by `ssh-keygen`: with keys in files, in an agent, or in hardware.

Source: OpenSSH, PROTOCOL.sshsig; ssh-keygen(1), -Y sign, find-principals and verify.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from craftkit_archive.errors import RequestError

# The purpose that signatures are made for: one for another purpose, such as a commit, is not accepted.
NAMESPACE = "craftkit-archive"
SUFFIX = ".sig"


class SignatureRefusedError(Exception):
    """A signature is invalid, or its signer is not allowed."""


def sign_text(text: bytes, key: Path) -> bytes:
    """Sign a text, and return the signature in the form that `ssh-keygen -Y verify` reads.

    Args:
        text: The text to sign.
        key: A private key, or a public one whose private half is in the agent or in hardware.

    Raises:
        RequestError: `ssh-keygen` is not installed, or cannot sign with this key.
    """
    return _signature(_run("sign", "-f", os.fspath(key), "-n", NAMESPACE, text=text), key)


def _signature(done: subprocess.CompletedProcess[bytes], key: Path) -> bytes:
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise RequestError(
            f"Cannot sign with {key} ({_last_words(done)}). Name a private key, or a public one that the agent holds."
        )
    return done.stdout


def sign_file(file: Path, key: Path) -> bytes:
    """Sign the content of a file of any size; see `sign_text`.

    Raises:
        RequestError: `ssh-keygen` is not installed, or cannot sign with this key.
    """
    with file.open("rb") as opened:
        return _signature(_run("sign", "-f", os.fspath(key), "-n", NAMESPACE, text=opened), key)


def find_signer(text: bytes, signature: bytes, allowed_signers: Path) -> str:
    """Return the signer of a text by the name in the file of allowed signers.

    Raises:
        SignatureRefusedError: The signature does not match the text, or its signer is not listed.
        RequestError: `ssh-keygen` is not installed, or the file does not exist.
    """
    if not allowed_signers.is_file():
        raise RequestError(f"Cannot read {allowed_signers}. Name a file of allowed signers, as ssh-keygen(1) has it.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.sig")
        file.write_bytes(signature)
        given = ("-f", os.fspath(allowed_signers), "-s", os.fspath(file))
        found = _run("find-principals", *given)
        if found.returncode:
            raise SignatureRefusedError(f"nobody in {allowed_signers.name} made it ({_last_words(found)})")
        done = found
        for signer in found.stdout.decode(errors="replace").splitlines():
            done = _run("verify", *given, "-n", NAMESPACE, "-I", signer, text=text)
            if not done.returncode:
                return signer
        raise SignatureRefusedError(f"it is not a signature of this text ({_last_words(done)})")


def _run(verb: str, *words: str, text: bytes | BinaryIO = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise RequestError("Signatures need ssh-keygen, which is not installed: install OpenSSH's client.")
    # No time-out: ssh-keygen may ask for a passphrase on the terminal, or wait until a hardware key is touched.
    given: Any = {"input": text} if isinstance(text, bytes) else {"stdin": text}
    return subprocess.run(  # noqa: S603 - a list of words, and no shell
        [program, "-Y", verb, *words], capture_output=True, env={**os.environ, "LC_ALL": "C"}, **given
    )


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].removesuffix(".") if lines else f"ssh-keygen ended with {done.returncode}"
