"""Reads secrets from the environment, from a file, or from systemd; never from an argument or the configuration."""

import os
from pathlib import Path

from craftkit_archive.errors import RequestError

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
# Larger than any password, token or list of addresses. A limit, because files such as /dev/zero are endless.
MAX_BYTES = 64 << 10


def read_secret(name: str) -> str | None:
    """Return a secret; None if it is not given.

    It is looked up in this order: the variable NAME; the file that the variable NAME_FILE names; the systemd credential
    of that name in lower case with dashes. Trailing line breaks are stripped, and an empty secret counts as not given.

    Args:
        name: The variable's name, such as `CRAFTKIT_API_KEY`; its credential is then `craftkit-api-key`.

    Raises:
        RequestError: The secret's file cannot be read, is too large, or is not UTF-8.

    Source: systemd.exec(5), "Credentials".
    """
    if given := os.environ.get(name, "").rstrip("\r\n"):
        return given
    if file := os.environ.get(f"{name}_FILE"):
        return _read_file(Path(file), f"the file that {name}_FILE names") or None
    credential = _credential(name)
    if credential is None or not os.path.lexists(credential):
        return None
    return _read_file(credential, f"the systemd credential {credential.name}") or None


def is_given(name: str) -> bool:
    """Return whether a secret is given, without reading it; one whose file cannot be read counts as given."""
    if os.environ.get(name, "").rstrip("\r\n") or os.environ.get(f"{name}_FILE"):
        return True
    credential = _credential(name)
    return credential is not None and os.path.lexists(credential)


def _credential(name: str) -> Path | None:
    directory = os.environ.get(CREDENTIALS_VARIABLE)
    return Path(directory, name.lower().replace("_", "-")) if directory else None


def _read_file(file: Path, what: str) -> str:
    # The path is not shown: if NAME and NAME_FILE were mixed up, it is the secret itself.
    try:
        with file.open("rb") as opened:
            found = opened.read(MAX_BYTES + 1)
        if len(found) > MAX_BYTES:
            raise RequestError(
                f"Cannot use {what}: it has more than {MAX_BYTES:,} bytes. Name one with just the secret."
            )
        # "utf-8-sig", because editors on Windows begin a file with a byte-order mark, which no password has.
        return found.decode("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise RequestError(f"Cannot read {what}: {reason}. Check its path and its mode.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"Cannot read {what}: it is not UTF-8. Save it as UTF-8.") from error
