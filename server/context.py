"""The context of a request: what becomes known about it on its way through the server, for logs and metrics."""

import time
from dataclasses import dataclass, field
from typing import Any

# Names in the WSGI environment: of the context, and of the fault for which a request must be refused.
CONTEXT, FAULT = "craftkit_archive.context", "craftkit_archive.fault"


class OffloadToThread(BaseException):
    """The answer takes long and was requested on the event loop, which all connections share: try again in a thread.

    It is not an `Exception`, so that no handler on the way treats it as a failure.
    """


@dataclass(slots=True)
class RequestContext:
    """What the application and the server know about a request."""

    on_event_loop: bool = False  # every other connection waits for this answer: slow work raises OffloadToThread
    environ: dict[str, Any] = field(default_factory=dict)  # the WSGI environment
    address: str = ""  # the client's address, as connected ("unix": through a Unix socket) or as a proxy names it
    request_id: str = ""
    path: str = ""
    began: float = field(default_factory=time.monotonic)  # when the request was complete
    route: str = ""  # the template of the route that answers
    key_id: str | None = None  # the id of the valid API key that was sent
    project_id: str | None = None
    render_id: str | None = None  # the id of the render that was requested and found
    sha256: str | None = None  # the digest of the PDF that is sent
    range: str | None = None  # the value of Content-Range
    damaged: bool = False  # a PDF was refused because its bytes are not the recorded ones
    status: int = 0  # 0 before there is an answer
    body_bytes: int = 0  # the length of the answer's body

    def leave_event_loop(self) -> None:
        """If this is the event loop, start over in a thread, because what follows takes long."""
        if self.on_event_loop:
            self.on_event_loop = False
            raise OffloadToThread
