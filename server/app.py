"""The WSGI application that serves an archive: its routes, and how they answer."""

import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from email.utils import format_datetime
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, NamedTuple

import msgspec
from bottle import Bottle, HTTPError

from craftkit_archive import errors
from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import ServedRender
from craftkit_archive.errors import ArchiveError, RenderConflictError
from server.addresses import TrustedProxies, base_url, client_address
from server.auth import find_caller
from server.bodies import MAX_BUFFER_BYTES, VerifyReads, describe_pdf, describe_render, open_pdf
from server.context import CONTEXT, FAULT, RequestContext
from server.errors import ANSWERS, STATUSES, Rejection
from server.listing import answer_listing, read_query
from server.ranges import is_unchanged, select_range

log = logging.getLogger("craftkit_archive.server")

QUICK_BYTES = 1 << 20  # a larger PDF is opened in a thread, because it would block the event loop
LOG_ROOM_BYTES = 16 << 20
STATIC = Path(__file__).parent / "static"
PUBLIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/openapi.yaml": ("openapi.yaml", "application/yaml"),
}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CORS_EXPOSED = "Accept-Ranges, Content-Disposition, Content-Range, ETag, Repr-Digest, X-Request-Id"
CORS_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, If-Match, If-None-Match, If-Range, Range, X-Request-Id",
    "Access-Control-Max-Age": "3600",
}
PREFLIGHT = "HTTP_ACCESS_CONTROL_REQUEST_METHOD"
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # the form of a request id from a client that the logs accept
STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Settings(NamedTuple):
    """The settings of the application."""

    public_url: str | None = None  # the URL under which clients reach it; by default, that of each request
    allowed_hosts: frozenset[str] = frozenset()  # hosts that a request may name as the server's own, in lower case
    s3_public_url: str | None = None  # the URL under which clients reach the bucket, if they can
    listen_url: str = "http://localhost"  # the URL for requests that name no host
    verify_reads: VerifyReads = "always"
    max_buffer_bytes: int = MAX_BUFFER_BYTES  # up to this size, a PDF is sent from memory
    trusted_proxies: frozenset[str] = frozenset()
    cors_origins: frozenset[str] = frozenset()  # origins whose scripts may read answers; `*` for all
    log_folder: Path | None = None  # the folder of the access log, whose free space `/ready` checks


class Response(NamedTuple):
    """The answer of a route; a file is sent from its present position."""

    status: int
    headers: dict[str, str]
    body: bytes | BinaryIO = b""


class Service:
    """The routes of a WSGI application (`app`) for an archive, which may be open read-only.

    The archive is reopened when its catalog or its store is replaced.
    """

    def __init__(self, archive: Archive, settings: Settings | None = None) -> None:
        self._settings = settings = settings or Settings()
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._lock = threading.Lock()
        self._opened: tuple[Archive, ArchiveError | None] = archive, None  # the archive, and an error of its store
        self.app = Bottle()
        routes: dict[str, Callable[..., Response]] = {
            "/v1/renders/<render_id>/download": self._send,
            "/v1/embed/renders/<render_id>/download": partial(self._send, embedded=True),
            "/v1/renders/<render_id>": self._show,
            "/v1/renders": self._list,
            "/health": lambda _: _json(200, {"status": "ok"}),
            "/ready": self._ready,
        }
        routes |= {path: _public((STATIC / name).read_bytes(), kind) for path, (name, kind) in PUBLIC.items()}
        for rule, callback in routes.items():
            self.app.get(rule, callback=callback)
        # Bottle only finds the route. Its request and response objects, which took a quarter of the time of a download,
        # are bypassed.
        self.app.wsgi = self._answer

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer a WSGI request: find its route, and turn errors into answers."""
        context: RequestContext = environ.get(CONTEXT) or RequestContext()  # a new one under another server than ours
        context.environ, context.address = environ, client_address(environ, self._proxies)
        given = environ.get("HTTP_X_REQUEST_ID", "")
        context.request_id = given if SANE_ID.fullmatch(given) else token_hex(8)
        context.path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        cors = self._cors(environ)
        try:
            if len(cors) > 1 and environ["REQUEST_METHOD"] == "OPTIONS" and PREFLIGHT in environ:
                status, headers, body = Response(204, CORS_PREFLIGHT)
            else:
                status, headers, body = self._respond(context)
        except (ArchiveError, Rejection) as error:
            status, headers, body = _refuse(error, context)
        except Exception:
            log.exception("internal error (request %s)", context.request_id)
            refusal = Rejection("internal", "The server has an internal error. Its log says more.")
            status, headers, body = _refuse(refusal, context)
        start_response(STATUS_LINES[status], [*headers.items(), *cors])
        sends_body = environ["REQUEST_METHOD"] != "HEAD"
        if isinstance(body, bytes):
            return [body] if body and sends_body else []
        if not sends_body:
            body.close()
            return []
        return environ["wsgi.file_wrapper"](body)  # type: ignore[no-any-return]

    def _respond(self, context: RequestContext) -> Response:
        environ = context.environ
        if fault := environ.get(FAULT):
            status, message = fault
            raise Rejection("bad_request" if status < 500 else "internal", message, status=status)
        try:
            # Decoded as UTF-8 here, because Bottle drops invalid bytes, and would find renders that nobody asked for.
            environ["PATH_INFO"] = environ["PATH_INFO"].encode("latin-1").decode()
            route, names = self.app.match(environ)
        except (HTTPError, UnicodeDecodeError) as error:
            if getattr(error, "status_code", 404) == 404:
                raise Rejection("not_found", "There is nothing at this address.") from error
            allowed = {"Allow": "GET, HEAD"}
            raise Rejection("method_not_allowed", "This address takes only GET and HEAD.", allowed) from error
        context.route = route.rule
        return route.callback(context, **names)  # type: ignore[no-any-return]

    def _cors(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the headers with which scripts of other origins may read an answer.

        Source: WHATWG Fetch, section 3.3 (HTTP extensions of CORS).
        """
        if not (allowed := self._settings.cors_origins):
            return []
        origin, vary = environ.get("HTTP_ORIGIN"), ("Vary", "Origin")
        if not origin or allowed.isdisjoint(("*", origin)):
            return [vary]
        shown = "*" if "*" in allowed else origin
        return [vary, ("Access-Control-Allow-Origin", shown), ("Access-Control-Expose-Headers", CORS_EXPOSED)]

    def reopen(self) -> None:
        """Open the archive again, as after SIGHUP."""
        archive, problem = self._opened[0].reopened(), None
        try:
            archive.store.check(archive.id)
        except ArchiveError as error:
            problem = error  # downloads are refused; answers from the catalog alone still work
        self._opened = archive, problem

    def _archive(self, context: RequestContext) -> Archive:
        """Return the present archive: a restored backup or a remounted disk takes effect with the next request."""
        opened = self._opened
        if not opened[0].is_current():
            context.leave_event_loop()
            with self._lock:
                if self._opened is opened:
                    self.reopen()
        return self._opened[0]

    def _find(self, context: RequestContext, render_id: str) -> ServedRender:
        catalog = self._archive(context).catalog
        render = catalog.find_render(find_caller(catalog, context).project_id, render_id)
        if render is None:
            raise errors.RenderNotFoundError("There is no render with this id in the project of this API key.")
        context.render_id = render.id
        return render

    def _describe(self, context: RequestContext) -> Callable[[ServedRender], dict[str, object]]:
        """Return a function that describes a render, with the URLs under which this client reaches API and bucket."""
        settings = self._settings
        api_url = base_url(
            context.environ,
            trusted=context.environ.get("REMOTE_ADDR", "") in self._proxies,
            fixed=settings.public_url,
            allowed_hosts=settings.allowed_hosts,
            fallback=settings.listen_url,
        )
        return partial(describe_render, api_url=api_url, s3_public_url=settings.s3_public_url)

    def _ready(self, context: RequestContext) -> Response:
        context.leave_event_loop()  # the store may be on a network, or on a disk that hangs
        try:
            archive = self._archive(context)
            archive.catalog.setting("archive_id")
            archive.store.check(archive.id)
        except ArchiveError as error:
            log.error("not ready: %s (request %s)", error, context.request_id)
            raise Rejection("not_ready", _reason(error)) from error
        if (folder := self._settings.log_folder) and shutil.disk_usage(folder).free < LOG_ROOM_BYTES:
            raise Rejection("not_ready", "There is no space for the access log.")
        return _json(200, {"status": "ready"})

    def _show(self, context: RequestContext, render_id: str) -> Response:
        return _json(200, self._describe(context)(self._find(context, render_id)))

    def _list(self, context: RequestContext) -> Response:
        catalog = self._archive(context).catalog
        caller, listing = find_caller(catalog, context), read_query(context.environ.get("QUERY_STRING", ""))
        context.leave_event_loop()
        return _json(200, answer_listing(catalog, caller, listing, self._describe(context)))

    def _send(self, context: RequestContext, render_id: str, *, embedded: bool = False) -> Response:
        render, environ = self._find(context, render_id), context.environ
        if render.disposed:
            raise RenderConflictError(f"The render has the status {render.status}, and its PDF was disposed.")
        if render.status != "succeeded":
            raise RenderConflictError(f"The render is not ready to download: its status is {render.status}.")
        if render.stored_key is None:
            raise RenderConflictError(f"The render has the status {render.status}, but no stored PDF.")
        modified = datetime.fromisoformat(render.completed_at) if render.completed_at else None
        etag = f'"{render.sha256}"' if render.sha256 else None
        headers = {"Cache-Control": "private, max-age=3600" if embedded else "private, no-cache"}
        headers |= {"X-Content-Type-Options": "nosniff"}
        if etag:
            headers["ETag"] = etag
        if modified:
            headers["Last-Modified"] = format_datetime(modified, usegmt=True)
        if is_unchanged(environ, etag, modified):
            return Response(304, headers)
        file, size = self._open(context, render)
        try:
            part = select_range(environ, size, etag, modified)
        except Rejection:
            file.close()
            raise
        if part is not None:
            file.seek(part.start)
            context.range = headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        headers |= describe_pdf(render, size if part is None else len(part), "inline" if embedded else "attachment")
        return Response(200 if part is None else 206, headers, file)

    def _open(self, context: RequestContext, render: ServedRender) -> tuple[BinaryIO, int]:
        archive, problem = self._opened
        if archive.store.lanes > 1 or (render.size_bytes or 0) > QUICK_BYTES:
            context.leave_event_loop()
        if problem is not None:
            raise problem
        settings = self._settings
        opened = open_pdf(archive.store, render, settings.verify_reads, settings.max_buffer_bytes)
        context.sha256 = render.sha256
        return opened


def _public(body: bytes, kind: str) -> Callable[[RequestContext], Response]:
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": etag, **PAGE_HEADERS}

    def answer(context: RequestContext) -> Response:
        known = is_unchanged(context.environ, etag, None)
        return Response(304, {"ETag": etag, **PAGE_HEADERS}) if known else Response(200, headers, body)

    return answer


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode(value)
    general = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    return Response(status, {**general, "X-Content-Type-Options": "nosniff", **(headers or {})}, body)


def _refuse(error: ArchiveError | Rejection, context: RequestContext) -> Response:
    """Return the answer to an error, and log what the operator should know."""
    if isinstance(error, Rejection):
        return _json(error.status or STATUSES[error.code], error.envelope, error.headers)
    code, message, embedded = ANSWERS[type(error)], str(error), context.route.startswith("/v1/embed/")
    if code == "internal":
        log.error("%s (request %s)", error, context.request_id)
        context.damaged, message = isinstance(error, errors.AssetDamagedError), _reason(error)
    elif code == "unauthorized":
        log.warning("failed login from %s (request %s)", context.address, context.request_id)
        code = "invalid_credentials" if embedded else code
    elif code == "conflict" and embedded:
        code = "not_found"
    headers = {"WWW-Authenticate": "Bearer"} if STATUSES[code] == 401 else {}
    return _refuse(Rejection(code, message, headers), context)


def _reason(error: ArchiveError) -> str:
    """Return a public message for an error, without the paths and addresses that the log has."""
    if isinstance(error, errors.AssetError):
        return "The PDF could not be read from storage as it was stored."
    if isinstance(error, errors.StoreError):
        return "The store of the archive is offline, or belongs to another archive."
    return "The catalog of the archive is missing or cannot be read."
