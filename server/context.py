"""One request on its way through the server: what becomes known of it, for the logs and the metrics."""

import time
from dataclasses import dataclass, field
from typing import Any

# Names in the WSGI environment: of the context, and of the reason why a request must be refused.
CONTEXT, FAULT = "craftkit_archive.context", "craftkit_archive.fault"


class OffloadToThread(BaseException):
    """The answer takes long and was asked for on the event loop, which all connections share: ask again in a thread.

    Not an Exception, so that no handler on the way takes it for a failure.
    """


@dataclass(slots=True)
class RequestContext:
    """What the application and the server tell each other about a request."""

    on_event_loop: bool = False  # every other connection waits for this answer: slow work raises OffloadToThread
    environ: dict[str, Any] = field(default_factory=dict)  # as WSGI has it
    address: str = ""  # the client's: whoever is connected ("unix": through a Unix socket), or whom a proxy names
    request_id: str = ""
    path: str = ""
    began: float = field(default_factory=time.monotonic)  # when the request was complete
    route: str = ""  # the template of the route that answers
    key_id: str | None = None  # of the valid API key that was sent
    project_id: str | None = None
    render_id: str | None = None  # of the render that was asked for and found
    sha256: str | None = None  # of the PDF that is sent
    range: str | None = None  # as in Content-Range
    damaged: bool = False  # a PDF was refused because its bytes are not the recorded ones
    status: int = 0  # 0 before there is an answer
    body_bytes: int = 0  # of the answer, as they go over the wire

    def leave_event_loop(self) -> None:
        """Begin again in a thread if this is the event loop: what follows takes long."""
        if self.on_event_loop:
            self.on_event_loop = False
            raise OffloadToThread
