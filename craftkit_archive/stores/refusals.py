"""What an object store answers when it refuses, and what of it may heal."""

import re
from typing import NamedTuple

from craftkit_archive.stores.aws import heals

MAX_SAID = 300
_MOVED = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"}
)

# How obstore says that the first entry of a list is one that it does not understand; so there is one.
ODD_LISTS = ("parsing Path", "empty path segment", "invalid list response")
BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
)


class ServiceRefusal(NamedTuple):
    """Why a service did not do what it was asked for, as read from obstore's error.

    Attributes:
        status: HTTP's; None if no answer came.
        code: As S3's error document has it, or else `HTTP 400` and the like, or obstore's words.
        message: What the service says itself.
        region: Where it says that the bucket is.
        exhausted: Whether obstore has tried again already, in vain.
        unreachable: Whether no connection came about.
        untrusted: Whether its certificate is not trusted.
    """

    status: int | None
    code: str
    message: str
    region: str | None
    exhausted: bool
    unreachable: bool
    untrusted: bool

    @classmethod
    def of(cls, error: BaseException) -> "ServiceRefusal":
        """Read an error: obstore 0.12 gives status and document as text alone, whose form a test holds."""
        text, _, debug = str(error).partition("\n\nDebug source")
        status = find_word(r"status code: (\d{3})", text)
        code = find_word(r"<Code>([^<]{1,100})</Code>", text)
        if code is None:
            code = f"HTTP {status}" if status else text.rpartition(" - ")[2].rpartition("error: ")[2][:MAX_SAID]
        return cls(
            status=int(status) if status else None,
            code=code,
            message=printable(find_word(r"<Message>([^<]*)", text) or ""),
            region=find_word(r"<Region>([A-Za-z0-9-]{1,64})</Region>", text),
            exhausted=re.search(r"after [1-9]\d* retries", text) is not None,
            unreachable="kind: Connect," in debug,
            untrusted="InvalidCertificate" in debug,
        )

    @property
    def moved(self) -> bool:
        """Whether the service wants to be asked elsewhere."""
        return self.code in _MOVED or self.status in (301, 307) or "incorrectly configured region" in self.code

    @property
    def heals(self) -> bool:
        """Whether asking once more may help."""
        if self.status is None:
            return "HTTP error" in self.code or "error sending request" in self.code or "body error" in self.code
        if self.status == 400 and self.code == "HTTP 400":
            return True  # the answer to a HEAD has no document that says which
        return heals(self.status, self.code)

    def __str__(self) -> str:
        """Say it in the service's words."""
        status = f"{self.status} " if self.status and not self.code.startswith("HTTP") else ""
        return f"{status}{self.code}: {self.message}" if self.message else f"{status}{self.code}"


def find_word(pattern: str, text: str) -> str | None:
    """Return what the group of a pattern matches first, if it does."""
    found = re.search(pattern, text)
    return found[1] if found else None


def printable(text: str) -> str:
    """Make a foreign text fit for a message: no control characters, and not endless."""
    return "".join(character if character.isprintable() else " " for character in text)[:MAX_SAID].strip()
