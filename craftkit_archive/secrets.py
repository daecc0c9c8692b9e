"""Secrets: from the environment, from a file, or from systemd; never from an argument or a configuration."""

import os
from pathlib import Path

from craftkit_archive.errors import RequestError

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
# Longer than any password, token or list of addresses; /dev/zero has no end.
MAX_BYTES = 64 << 10


def read_secret(name: str) -> str | None:
    """Return a secret, or None if none was given.

    It is looked for in this order: the variable NAME; the file that the variable NAME_FILE names; the systemd
    credential of that name in lower case with dashes. Line ends at its end are not part of it, and an empty one
    counts as not given.

    Args:
        name: The variable's name, such as `CRAFTKIT_API_KEY`; its credential is then `craftkit-api-key`.

    Raises:
        RequestError: It was given as a file, and that file cannot be read.

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
    """Say whether a secret was given, without reading it; one whose file cannot be read counts as given."""
    if os.environ.get(name, "").rstrip("\r\n") or os.environ.get(f"{name}_FILE"):
        return True
    credential = _credential(name)
    return credential is not None and os.path.lexists(credential)


def _credential(name: str) -> Path | None:
    directory = os.environ.get(CREDENTIALS_VARIABLE)
    return Path(directory, name.lower().replace("_", "-")) if directory else None


def _read_file(file: Path, what: str) -> str:
    # The path is not shown: who mixes up NAME and NAME_FILE has put the secret itself there.
    try:
        with file.open("rb") as opened:
            found = opened.read(MAX_BYTES + 1)
        if len(found) > MAX_BYTES:
            raise RequestError(
                f"Cannot use {what}: it has more than {MAX_BYTES:,} bytes. Name one with just the secret."
            )
        # Editors on Windows begin a file with a mark, which no password has.
        return found.decode("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise RequestError(f"Cannot read {what}: {reason}. Check its path and its mode.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"Cannot read {what}: it is not UTF-8. Save it as UTF-8.") from error
