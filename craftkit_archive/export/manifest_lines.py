r"""Parses the lines of manifests: of sha256sum and similar tools, of BSD's tools, and of bags.

Source: GNU coreutils, "md5sum invocation" (two spaces or ` *`; a line that begins with `\` has `\n`, `\r` and `\\` in
its name); RFC 8493, section 2.1.3 (any spaces and tabs; `%0A`, `%0D` and `%25`).
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

# The longest line of an export's tables, in characters: a line of gigabytes would fill the memory.
MOST_LINE = 1 << 20


class Line(NamedTuple):
    """A line of a manifest: the digest in lower-case hex digits, its algorithm by `hashlib`'s name, and the path."""

    digest: str
    algorithm: str
    path: str


class ManifestName(NamedTuple):
    """A manifest's name, its algorithm (None if unknown), and whether it lists the tag files of a bag."""

    name: str
    algorithm: str | None
    of_tags: bool


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# RFC 8493 spells `sha3256` in a file name, bagit-python `sha3_256`. The shake algorithms have no fixed length.
_ALGORITHMS = {_normalized(name): name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")}
_ALGORITHMS |= {"b2": "blake2b", "blake2b512": "blake2b", "blake2s256": "blake2s"}
_DIGITS = {name: 2 * hashlib.new(name, usedforsecurity=False).digest_size for name in set(_ALGORITHMS.values())}

_BAGIT_NAME = re.compile(r"(tag)?manifest-([A-Za-z0-9_.-]+)\.txt")
_SUMS_NAME = re.compile(r"(md5|b2|sha[0-9]+)sums?(?:\.txt)?", re.IGNORECASE)

_SUM = re.compile(r"(\\)?([0-9a-fA-F]+)(?: [ *]|[ \t]+)(.+)", re.DOTALL)
_BSD_SUM = re.compile(r"(\\)?([A-Za-z0-9-]+) ?\((.+)\) ?= ?([0-9a-fA-F]+)", re.DOTALL)
_BAG_LINE = re.compile(r"([0-9a-fA-F]+)[ \t]+\*?(.+)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "\\": "\\"}
_PERCENT = re.compile(r"%(0[AaDd]|25)")
_PERCENT_BREAK = re.compile(r"%(0[AaDd])")


def manifest_name(name: str) -> ManifestName | None:
    """Parse the name of a manifest, such as `manifest-md5.txt` or `SHA256SUMS`; None if it is not one."""
    if found := _BAGIT_NAME.fullmatch(name):
        return ManifestName(name, _ALGORITHMS.get(_normalized(found[2])), found[1] is not None)
    if (found := _SUMS_NAME.fullmatch(name)) and (algorithm := _ALGORITHMS.get(found[1].lower())):
        return ManifestName(name, algorithm, of_tags=False)
    return None


def strength(algorithm: str) -> int:
    """Return the strength of an algorithm, by which they are ordered; the higher, the stronger."""
    return _DIGITS[algorithm]


def parse_sum(line: str, algorithm: str) -> Line | None:
    """Parse a line as `sha256sum --check` does; None if it is not valid.

    Args:
        line: The line without its line break.
        algorithm: The algorithm of the digest, unless the line names another (`SHA512 (path) = digest`).
    """
    if found := _BSD_SUM.fullmatch(line):
        escaped, name, path, digest = found.groups()
        algorithm = _ALGORITHMS.get(_normalized(name), "")
    elif found := _SUM.fullmatch(line):
        escaped, digest, path = found.groups()
    else:
        return None
    if escaped:
        if not all(code in _ESCAPED for code in _ESCAPE.findall(path)):
            return None
        path = _ESCAPE.sub(lambda code: _ESCAPED[code[1]], path)
    return _checked_line(digest, algorithm, path)


def parse_bag_line(line: str, algorithm: str) -> Line | None:
    """Parse a line of a bag's manifest, without decoding the path; None if it is not valid."""
    found = _BAG_LINE.fullmatch(line)
    return _checked_line(found[1], algorithm, found[2]) if found else None


def _checked_line(digest: str, algorithm: str, path: str) -> Line | None:
    return Line(digest.lower(), algorithm, path) if len(digest) == _DIGITS.get(algorithm) else None


def spellings(path: str, *, percent: bool) -> Iterator[str]:
    """Yield the names that a path in a bag's manifest may stand for, the likeliest first.

    Before version 1.0, a percent sign was not encoded, and bagit-python still does not encode it; some tools encode
    nothing at all. And in a bag that went through another system, accents may be composed differently than in its
    manifest.

    Args:
        path: The path as it is in the manifest.
        percent: Whether `%25` most likely stands for a percent sign, as in version 1.0.
    """
    path = path.removeprefix("./")
    if "%" not in path and path.isascii():
        yield path
        return
    decoded, breaks = (code.sub(lambda one: chr(int(one[1], 16)), path) for code in (_PERCENT, _PERCENT_BREAK))
    names = (decoded, breaks, path) if percent else (breaks, decoded, path)
    yield from dict.fromkeys(names)
    yield from dict.fromkeys(unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD"))
