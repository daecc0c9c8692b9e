"""The seal: one digest over everything that an archive, a project or an export holds."""

from collections.abc import Iterable
from hashlib import sha256


def seal(held: Iterable[tuple[str, str]]) -> str:
    r"""Return the seal of what is held, as 64 lower-case hex digits.

    It is the SHA-256 of the lines that `sha256sum` would print of the assets, under their asset keys, sorted by their
    bytes (`LC_ALL=C sort`): `<sha256>  <asset key>\n`.

    Args:
        held: Digest (64 lower-case hex digits) and asset key of each asset, in the order of their bytes, digest first.
    """
    hashed = sha256()
    for digest, key in held:
        hashed.update(f"{digest}  {key}\n".encode())
    return hashed.hexdigest()
