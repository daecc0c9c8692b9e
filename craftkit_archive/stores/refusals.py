"""Refusals of object stores as obstore reports them, and which of them are worth another attempt."""

import re
from typing import NamedTuple

from craftkit_archive.stores.aws import heals

MAX_SAID = 300
_MOVED = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"}
)

# What obstore says when it cannot parse the first entry of a list, which proves that the list is not empty.
ODD_LISTS = ("parsing Path", "empty path segment", "invalid list response")
BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
)


class ServiceRefusal(NamedTuple):
    """Why a service did not do what it was asked for, as read from obstore's error.

    Attributes:
        status: The HTTP status; None if no answer came.
        code: The code in S3's error document, or else `HTTP 400` and the like, or obstore's words.
        message: The service's own message.
        region: The region in which the service says the bucket is.
        exhausted: Whether obstore has used up its own attempts.
        unreachable: Whether no connection could be made.
        untrusted: Whether the service's certificate is not trusted.
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
        """Parse an error of obstore 0.12, which gives status and document only as text; a test pins its form."""
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
        """Whether the service redirects to another region."""
        return self.code in _MOVED or self.status in (301, 307) or "incorrectly configured region" in self.code

    @property
    def heals(self) -> bool:
        """Whether another attempt may succeed."""
        if self.status is None:
            return "HTTP error" in self.code or "error sending request" in self.code or "body error" in self.code
        if self.status == 400 and self.code == "HTTP 400":
            return True  # the answer to a HEAD has no error document, so the reason is unknown
        return heals(self.status, self.code)

    def __str__(self) -> str:
        """Return the refusal in the service's own words."""
        status = f"{self.status} " if self.status and not self.code.startswith("HTTP") else ""
        return f"{status}{self.code}: {self.message}" if self.message else f"{status}{self.code}"


def find_word(pattern: str, text: str) -> str | None:
    """Return the first match of a pattern's group, or None."""
    found = re.search(pattern, text)
    return found[1] if found else None


def printable(text: str) -> str:
    """Make foreign text safe for a message: control characters become spaces, and it ends after `MAX_SAID`."""
    return "".join(character if character.isprintable() else " " for character in text)[:MAX_SAID].strip()
