"""One request on its way through the server: what becomes known of it, for the logs and the metrics."""

import re
import time
from dataclasses import dataclass, field
from secrets import token_hex

CONTEXT = "craftkit_archive.context"  # its name in the WSGI environment
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class OffloadToThread(BaseException):
    """The answer takes long and was asked for on the event loop, which all connections share: ask again in a thread.

    Not an Exception, so that no handler on the way takes it for a failure.
    """


@dataclass(slots=True)
class RequestContext:
    """What the application and the server tell each other about a request.

    Attributes:
        peer: The address that is connected; "unix" for a Unix socket.
        request_id: The client's `X-Request-Id`, or one of ours.
        address: The client's address: the peer, unless that is a trusted proxy.
        on_event_loop: Whether every other connection waits for this answer; slow work then raises `OffloadToThread`.
        began: When the request was complete, in monotonic seconds.
        route: The route that answers, as a template; empty if there is none.
        key_id: The id of the valid API key that was sent.
        project_id: That key's project.
        render_id: The render that was asked for and found.
        sha256: The digest of the PDF that is sent.
        range: The range that is sent, as in `Content-Range`.
        damaged: Whether a PDF was refused because its bytes are not the recorded ones.
        status: The answer's status; 0 before there is one.
        body_bytes: The length of the answer's body as it goes over the wire.
    """

    peer: str
    request_id: str
    method: str = ""
    path: str = ""
    user_agent: str = ""
    version: str = ""
    on_event_loop: bool = False
    began: float = field(default_factory=time.monotonic)
    address: str = ""
    route: str = ""
    key_id: str | None = None
    project_id: str | None = None
    render_id: str | None = None
    sha256: str | None = None
    range: str | None = None
    damaged: bool = False
    status: int = 0
    body_bytes: int = 0

    def __post_init__(self) -> None:
        self.address = self.address or self.peer


def choose_request_id(given: str | None) -> str:
    """Return the id that a client gave its request if it is fit for a log, and a new one otherwise."""
    return given if given and _SANE_ID.fullmatch(given) else token_hex(8)
