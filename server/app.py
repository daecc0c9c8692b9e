"""The routes: a WSGI application that serves an archive."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec
from bottle import Bottle, HTTPError, HTTPResponse, request

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import KeyRow, ServedRender
from craftkit_archive.errors import (
    ArchiveError,
    AssetDamagedError,
    AssetError,
    CatalogError,
    NoArchiveError,
    RenderConflictError,
    RenderNotFoundError,
    StoreError,
)
from server.addresses import TrustedProxies, base_url, client_address
from server.auth import find_caller
from server.bodies import MAX_BUFFER_BYTES, Bodies, VerifyReads, content_disposition, describe_render, repr_digest
from server.context import CONTEXT, OffloadToThread, RequestContext, choose_request_id
from server.errors import (
    ANSWERS,
    BAD_REQUEST,
    FRAMEWORK,
    INTERNAL,
    NOT_READY,
    PRECONDITION_FAILED,
    RANGE_NOT_SATISFIABLE,
    Answer,
    QueryError,
    envelope,
)
from server.listing import list_renders, read_query
from server.ranges import RangeNotSatisfiable, Verdict, evaluate_preconditions, select_range

log = logging.getLogger("craftkit_archive.server")

QUICK_BYTES = 1 << 20  # a larger PDF would keep the event loop, and everybody on it, waiting
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
CORS_PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET, HEAD"),
    ("Access-Control-Allow-Headers", "Authorization, If-Match, If-None-Match, If-Range, Range, X-Request-Id"),
    ("Access-Control-Max-Age", "3600"),
]


class Settings(NamedTuple):
    """How the server presents itself and how careful it is."""

    public_url: str | None = None  # under which clients reach it; by default as each request says
    allowed_hosts: frozenset[str] = frozenset()  # that a request may name as the server's own, in lower case
    s3_public_url: str | None = None  # under which clients reach the bucket, if they do
    listen_url: str = "http://localhost"  # for requests that name no host
    verify_reads: VerifyReads = "always"
    max_buffer_bytes: int = MAX_BUFFER_BYTES
    trusted_proxies: frozenset[str] = frozenset()
    cors_origins: frozenset[str] = frozenset()  # whose scripts may read; `*` for all
    log_folder: Path | None = None  # of the access log: `/ready` asks for its room


class _Style(NamedTuple):
    """What differs between the two routes to the same bytes."""

    disposition: Literal["attachment", "inline"]
    cache_control: str
    unauthorized: str
    conflict: Answer


HOSTED = _Style("attachment", "private, no-cache", "unauthorized", ANSWERS[RenderConflictError])
EMBEDDED = _Style("inline", "private, max-age=3600", "invalid_credentials", ANSWERS[RenderNotFoundError])


class _Opened(NamedTuple):
    """The archive as it was last found, and what is wrong with its store."""

    archive: Archive
    bodies: Bodies
    problem: ArchiveError | None = None


def create_app(archive: Archive, settings: Settings | None = None) -> Bottle:
    """Return the WSGI application that serves an archive, which may be open read-only."""
    return Service(archive, settings or Settings()).app()


class Service:
    """What the routes do; the archive is opened again when its catalog or its store is replaced."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self._settings = settings
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._lock = threading.Lock()
        self._opened = self._open(archive)

    def app(self) -> Bottle:
        """Return the WSGI application."""
        app = Bottle()
        app.default_error_handler = _framework_error
        app.add_hook("before_request", self._begin)
        routes: dict[str, Callable[..., HTTPResponse]] = {
            "/v1/renders/<render_id>/download": lambda render_id: self._send(render_id, HOSTED),
            "/v1/embed/renders/<render_id>/download": lambda render_id: self._send(render_id, EMBEDDED),
            "/v1/renders/<render_id>": self._show,
            "/v1/renders": self._list,
            "/health": lambda: _json(200, {"status": "ok"}),
            "/ready": self._ready,
        }
        routes |= {path: _public((STATIC / name).read_bytes(), kind) for path, (name, kind) in PUBLIC.items()}
        for rule, callback in routes.items():
            app.get(rule, callback=self._answering(rule, callback))
        if self._settings.cors_origins:
            app.wsgi = _with_cors(app.wsgi, self._settings.cors_origins)
        return app

    # --- the archive, which may be replaced under the server

    def _open(self, archive: Archive, problem: ArchiveError | None = None) -> _Opened:
        settings = self._settings
        bodies = Bodies(archive.store, verify=settings.verify_reads, max_buffer_bytes=settings.max_buffer_bytes)
        return _Opened(archive, bodies, problem)

    def reopen(self) -> None:
        """Open the archive again, as after SIGHUP."""
        archive, problem = self._opened.archive.reopened(), None
        try:
            archive.store.check(archive.id)
        except ArchiveError as error:
            problem = error  # downloads are refused; what the catalog knows is still answered
        self._opened = self._open(archive, problem)

    def _current(self) -> _Opened:
        """Return the archive that is there now: a restored backup or a remounted disk counts from the next request."""
        opened = self._opened
        if not opened.archive.is_current():
            if _context().on_event_loop:
                raise OffloadToThread
            with self._lock:
                if self._opened is opened:
                    self.reopen()
        return self._opened

    # --- around each answer

    def _begin(self) -> None:
        environ, context = request.environ, _context()
        context.address = client_address(environ, context.peer, self._proxies)
        # Bottle leaves bytes that are not UTF-8 out of the path, and would find what was not asked for.
        try:
            environ["bottle.raw_path"].encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            raise HTTPError(404) from error

    def _answering(self, rule: str, callback: Callable[..., HTTPResponse]) -> Callable[..., HTTPResponse]:
        """Turn the errors of a route into answers."""

        def answer(**names: str) -> HTTPResponse:
            _context().route = rule
            try:
                return callback(**names)
            except ArchiveError as error:
                return self._refuse(error, EMBEDDED if rule.startswith("/v1/embed/") else HOSTED)
            except QueryError as error:
                return _error(BAD_REQUEST, str(error), fields=error.fields)

        return answer

    def _refuse(self, error: ArchiveError, style: _Style) -> HTTPResponse:
        answer, context = ANSWERS[type(error)], _context()
        if answer is INTERNAL:
            log.error("%s (request %s)", error, context.request_id)
            context.damaged = isinstance(error, AssetDamagedError)
            what = "The PDF could not be read from storage as it was stored."
            return _error(INTERNAL, what if isinstance(error, AssetError) else _reason(error))
        if answer.status == 401:
            log.warning("failed login from %s (request %s)", context.address, context.request_id)
            return _error(Answer(401, style.unauthorized), str(error), {"WWW-Authenticate": "Bearer"})
        return _error(style.conflict if isinstance(error, RenderConflictError) else answer, str(error))

    def _caller(self) -> KeyRow:
        context = _context()
        caller = find_caller(self._current().archive.catalog, request.environ.get("HTTP_AUTHORIZATION"))
        context.key_id, context.project_id = caller.key_id, caller.project_id
        return caller

    def _find(self, render_id: str) -> ServedRender:
        caller = self._caller()
        render = self._opened.archive.catalog.find_render(caller.project_id, render_id)
        if render is None:
            raise RenderNotFoundError("There is no render with this id in the project of this API key.")
        _context().render_id = render.id
        return render

    def _addresses(self) -> dict[str, Any]:
        """Return where clients reach this API and the bucket."""
        settings, trusted = self._settings, _context().peer in self._proxies
        given = {"fixed": settings.public_url, "allowed_hosts": settings.allowed_hosts, "fallback": settings.listen_url}
        api_url = base_url(request.environ, trusted=trusted, **given)  # type: ignore[arg-type]
        return {"api_url": api_url, "s3_public_url": (settings.s3_public_url or "").rstrip("/") or None}

    # --- the routes

    def _ready(self) -> HTTPResponse:
        if _context().on_event_loop:
            raise OffloadToThread  # a network, or a disk that hangs
        try:
            archive = self._current().archive
            archive.catalog.setting("archive_id")
            archive.store.check(archive.id)
            if (folder := self._settings.log_folder) is not None:
                room = os.statvfs(folder)
                if room.f_bavail * room.f_frsize < LOG_ROOM_BYTES:
                    return _error(NOT_READY, "There is no room for the access log.")
        except ArchiveError as error:
            log.error("not ready: %s (request %s)", error, _context().request_id)
            return _error(NOT_READY, _reason(error))
        return _json(200, {"status": "ready"})

    def _show(self, render_id: str) -> HTTPResponse:
        return _json(200, describe_render(self._find(render_id), **self._addresses()))

    def _list(self) -> HTTPResponse:
        caller, listing = self._caller(), read_query(_query())
        if _context().on_event_loop:
            raise OffloadToThread
        return _json(200, list_renders(self._opened.archive.catalog, caller, listing, **self._addresses()))

    def _send(self, render_id: str, style: _Style) -> HTTPResponse:
        render = self._find(render_id)
        if render.status != "succeeded":
            raise RenderConflictError(f"The render is not ready to download: its status is {render.status}.")
        if render.stored_key is None:
            raise RenderConflictError(f"The render has the status {render.status}, but no stored PDF.")
        modified = datetime.fromisoformat(render.completed_at) if render.completed_at else None
        etag = f'"{render.sha256}"' if render.sha256 else None
        headers = {"Cache-Control": style.cache_control, "X-Content-Type-Options": "nosniff"}
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": format_datetime(modified, usegmt=True)} if modified else {}
        verdict = evaluate_preconditions(request.environ, etag, modified)
        if verdict is Verdict.NOT_MODIFIED:
            return _answer(b"", 304, headers)
        if verdict is Verdict.FAILED:
            return _error(PRECONDITION_FAILED, "The PDF is not the version that was asked for.")
        file, size = self._verified(render)
        status, length = 200, size
        if request.method == "HEAD":
            file.close()
        else:
            try:
                part = select_range(request.environ, size, etag, modified)
            except RangeNotSatisfiable:
                file.close()
                message = f"The range begins behind the end: the PDF has {size} bytes."
                return _error(RANGE_NOT_SATISFIABLE, message, {"Content-Range": f"bytes */{size}"})
            if part is not None:
                status, length = 206, part.length
                file.seek(part.start)
                headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{size}"
                _context().range = headers["Content-Range"]
        headers |= {"Content-Type": "application/pdf", "Content-Length": str(length), "Accept-Ranges": "bytes"}
        headers |= {"Content-Disposition": content_disposition(render.id, style.disposition)}
        headers |= {"Repr-Digest": repr_digest(render.sha256)} if render.sha256 else {}
        return _answer(b"" if request.method == "HEAD" else file, status, headers)

    def _verified(self, render: ServedRender) -> tuple[BinaryIO, int]:
        """Open a render's PDF, compared with its record; what takes long is left to a thread."""
        opened, context = self._opened, _context()
        if context.on_event_loop and (opened.bodies.remote or (render.size_bytes or 0) > QUICK_BYTES):
            raise OffloadToThread
        if opened.problem is not None:
            raise opened.problem
        assert render.stored_key is not None  # noqa: S101 - for the type checker
        body = opened.bodies.open(render.stored_key, render.size_bytes, render.sha256)
        context.sha256 = render.sha256
        return body


def _context() -> RequestContext:
    found: RequestContext | None = request.environ.get(CONTEXT)
    if found is None:  # under another server than ours
        request_id = choose_request_id(request.environ.get("HTTP_X_REQUEST_ID"))
        found = request.environ[CONTEXT] = RequestContext(request.environ.get("REMOTE_ADDR", ""), request_id)
    return found


def _reason(error: ArchiveError) -> str:
    """Say in public what the log says with paths and addresses."""
    if isinstance(error, StoreError):
        return "The store of the archive is offline, or belongs to another archive."
    if isinstance(error, (CatalogError, NoArchiveError)):
        return "The catalog of the archive is missing or cannot be read."
    return "The catalog or the store could not be read."


def _query() -> Mapping[str, str]:
    try:
        return request.query.decode()  # type: ignore[no-any-return]
    except UnicodeDecodeError as error:
        raise QueryError({}, "The query parameters are not UTF-8.") from error


def _public(body: bytes, kind: str) -> Callable[[], HTTPResponse]:
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": etag, **PAGE_HEADERS}

    def answer() -> HTTPResponse:
        known = evaluate_preconditions(request.environ, etag, None) is Verdict.NOT_MODIFIED
        return _answer(b"", 304, {"ETag": etag, **PAGE_HEADERS}) if known else _answer(body, 200, headers)

    return answer


def _answer(body: bytes | BinaryIO, status: int, headers: dict[str, str]) -> HTTPResponse:
    """Return an answer whose headers are handed over as they are: Bottle would look at each by itself."""
    answer = HTTPResponse(body, status)
    answer._headers = {name: [value] for name, value in headers.items()}
    return answer


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> HTTPResponse:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    general = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    return _answer(body, status, {**general, "X-Content-Type-Options": "nosniff", **(headers or {})})


def _error(
    answer: Answer, message: str, headers: dict[str, str] | None = None, *, fields: dict[str, str] | None = None
) -> HTTPResponse:
    return _json(answer.status, envelope(answer.code, message, fields), headers)


def _framework_error(error: HTTPError) -> HTTPResponse:
    answer = FRAMEWORK.get(error.status_code, INTERNAL)
    if answer is INTERNAL:
        log.error("internal error (request %s)", _context().request_id, exc_info=error.exception)
        return _error(INTERNAL, "The server has an internal error. Its log says more.")
    if answer.status == 405:
        return _error(answer, "This address takes only GET and HEAD.", {"Allow": "GET, HEAD"})
    return _error(answer, "There is nothing at this address.")


def _with_cors(app: Callable[..., Any], origins: frozenset[str]) -> Callable[..., Any]:
    """Let scripts of other origins read what this application answers, and nothing more.

    Source: WHATWG Fetch, section 3.3 (HTTP extensions of CORS).
    """

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        origin = environ.get("HTTP_ORIGIN", "")
        allowed = "*" if "*" in origins else origin if origin in origins else None
        added = [("Vary", "Origin")]
        if origin and allowed:
            added += [("Access-Control-Allow-Origin", allowed), ("Access-Control-Expose-Headers", CORS_EXPOSED)]
            if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
                start_response("204 No Content", added + CORS_PREFLIGHT)
                return [b""]
        return app(environ, lambda status, headers, *more: start_response(status, headers + added, *more))

    return wrapped
