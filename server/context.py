"""One request on its way through the server: what becomes known of it, for the logs and the metrics."""

import re
import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

CONTEXT = "craftkit_archive.context"  # its name in the WSGI environment
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class OffloadToThread(BaseException):
    """The answer takes long and was asked for on the event loop, which all connections share: ask again in a thread.

    Not an Exception, so that no handler on the way takes it for a failure.
    """


@dataclass(slots=True)
class RequestContext:
    """What the application and the server tell each other about a request."""

    address: str  # the client's: whoever is connected ("unix" for a Unix socket), or whom a trusted proxy names
    request_id: str
    method: str = ""
    path: str = ""
    user_agent: str = ""
    version: str = ""
    on_event_loop: bool = False  # every other connection waits for this answer: slow work raises OffloadToThread
    began: float = field(default_factory=time.monotonic)  # when the request was complete
    route: str = ""  # the template of the route that answers
    key_id: str | None = None  # of the valid API key that was sent
    project_id: str | None = None
    render_id: str | None = None  # of the render that was asked for and found
    sha256: str | None = None  # of the PDF that is sent
    range: str | None = None  # as in Content-Range
    environ: dict[str, Any] = field(default_factory=dict)  # as WSGI has it
    damaged: bool = False  # a PDF was refused because its bytes are not the recorded ones
    status: int = 0  # 0 before there is an answer
    body_bytes: int = 0  # of the answer, as they go over the wire

    def leave_event_loop(self) -> None:
        """Begin again in a thread if this is the event loop: what follows takes long."""
        if self.on_event_loop:
            raise OffloadToThread


def choose_request_id(given: str | None) -> str:
    """Return the id that a client gave its request if it is fit for a log, and a new one otherwise."""
    return given if given and _SANE_ID.fullmatch(given) else token_hex(8)
