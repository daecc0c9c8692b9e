"""The routes: `create_app` makes a WSGI application of an archive."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
from bottle import Bottle, HTTPError, HTTPResponse, request

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import KeyRow, ServedRender
from craftkit_archive.errors import (
    ArchiveError,
    AssetError,
    RenderConflictError,
    RenderNotFoundError,
)
from server.auth import MAX_HOLD_SECONDS, Brake, address_of, find_caller
from server.bodies import (
    MAX_BUFFER_BYTES,
    Bodies,
    VerifyReads,
    content_disposition,
    describe_render,
    repr_digest,
)
from server.conditions import Unsatisfiable, Verdict, choose_part, judge
from server.errors import (
    ANSWERS,
    BAD_REQUEST,
    FRAMEWORK,
    INTERNAL,
    PRECONDITION_FAILED,
    RANGE_NOT_SATISFIABLE,
    Answer,
    QueryError,
    envelope,
)
from server.exchange import EXCHANGE, Exchange, TakesLong
from server.listing import list_renders, read_query

log = logging.getLogger("craftkit_archive.server")

QUICK_BYTES = 1 << 20  # reading and comparing more keeps a thread that others wait for too long
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


class Settings(NamedTuple):
    """How the server presents itself and how careful it is.

    Attributes:
        public_url: Where clients reach it; taken from each request if not given.
        s3_public_url: Where clients reach the bucket, if they do.
        listen_url: Where it listens: for requests that do not say where they were sent.
        verify_reads: What is compared with the record before a PDF is sent.
        max_buffer_bytes: Memory for PDFs on their way; larger ones are sent from their open files.
        max_hold_seconds: For how long the answer to a failed log-in is held back at most.
        trusted_proxies: Addresses whose `X-Forwarded-For` is believed.
    """

    public_url: str | None = None
    s3_public_url: str | None = None
    listen_url: str = "http://localhost"
    verify_reads: VerifyReads = "always"
    max_buffer_bytes: int = MAX_BUFFER_BYTES
    max_hold_seconds: float = MAX_HOLD_SECONDS
    trusted_proxies: frozenset[str] = frozenset()


class _Style(NamedTuple):
    """In what the two routes to the same bytes differ."""

    disposition: Any
    cache_control: str
    unauthorized: str
    conflict: Answer


HOSTED = _Style("attachment", "private, no-cache", "unauthorized", ANSWERS[RenderConflictError])
EMBEDDED = _Style("inline", "private, max-age=3600", "invalid_credentials", ANSWERS[RenderNotFoundError])


def create_app(archive: Archive, settings: Settings | None = None) -> Bottle:
    """Make the WSGI application that serves an archive, which may be open read-only."""
    app, api = Bottle(), _Api(archive, settings or Settings())
    app.default_error_handler = _framework_error
    app.add_hook("before_request", _refuse_what_is_not_utf8)
    app.install(api.answer_errors)
    app.get("/v1/renders/<render_id>/download", callback=api.download)
    app.get("/v1/embed/renders/<render_id>/download", callback=api.embed)
    app.get("/v1/renders/<render_id>", callback=api.show)
    app.get("/v1/renders", callback=api.show_list)
    app.get("/health", callback=lambda: _json(200, msgspec.json.encode({"status": "ok"})))
    for path, (name, kind) in PUBLIC.items():
        app.get(path, callback=_public((STATIC / name).read_bytes(), kind))
    return app


class _Api:
    """What the routes do."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self._catalog = archive.catalog
        self._settings = settings
        self._bodies = Bodies(archive.store, verify=settings.verify_reads, max_buffer_bytes=settings.max_buffer_bytes)
        self._brake = Brake(time.monotonic, max_hold_seconds=settings.max_hold_seconds)

    def answer_errors(self, callback: Callable[..., HTTPResponse]) -> Callable[..., HTTPResponse]:
        """Put an answer in the place of an error, and tell the log of what an operator should know."""

        def answer(*args: Any, **names: Any) -> HTTPResponse:
            try:
                return callback(*args, **names)
            except ArchiveError as error:
                return self._refuse(error)
            except QueryError as error:
                return _json(BAD_REQUEST.status, envelope(BAD_REQUEST.code, str(error), error.fields))

        return answer

    def _refuse(self, error: ArchiveError) -> HTTPResponse:
        answer, embedded = ANSWERS[type(error)], request.environ["PATH_INFO"].startswith("/v1/embed/")
        if answer is INTERNAL:
            log.error("%s", error)
            if isinstance(error, AssetError):
                return _json(500, envelope(INTERNAL.code, "The PDF could not be read from storage as it was stored."))
            return _json(500, envelope(INTERNAL.code, "The catalog or the store could not be read."))
        if answer.status == 401:
            exchange = _exchange()
            exchange.hold_seconds = self._brake.failed(exchange.address)
            log.warning("failed login from %s", exchange.address)
            code = EMBEDDED.unauthorized if embedded else HOSTED.unauthorized
            return _json(401, envelope(code, str(error)), {"WWW-Authenticate": "Bearer"})
        if isinstance(error, RenderConflictError) and embedded:
            answer = EMBEDDED.conflict
        return _json(answer.status, envelope(answer.code, str(error)))

    def _caller(self) -> KeyRow:
        environ, exchange = request.environ, _exchange()
        exchange.address = address_of(environ, self._settings.trusted_proxies)
        caller = find_caller(self._catalog, environ.get("HTTP_AUTHORIZATION"))
        exchange.key_id, exchange.project_id = caller.key_id, caller.project_id
        return caller

    def _find(self, render_id: str) -> ServedRender:
        render = self._catalog.find_render(self._caller().project_id, render_id)
        if render is None:
            raise RenderNotFoundError("There is no render with this id in the project of this API key.")
        _exchange().render_id = render.id
        return render

    def _addresses(self) -> dict[str, Any]:
        """Say where clients reach this API and the bucket."""
        environ, settings = request.environ, self._settings
        scheme = request.environ["wsgi.url_scheme"]
        if environ.get("REMOTE_ADDR") in settings.trusted_proxies and environ.get("HTTP_X_FORWARDED_PROTO") == "https":
            scheme = "https"
        asked = f"{scheme}://{environ['HTTP_HOST']}" if environ.get("HTTP_HOST") else None
        base, bucket = settings.public_url or asked or settings.listen_url, settings.s3_public_url
        return {"api_url": base.rstrip("/"), "s3_public_url": bucket.rstrip("/") if bucket else None}

    def show(self, render_id: str) -> HTTPResponse:
        """Answer `GET /v1/renders/:id`."""
        return _json(200, msgspec.json.encode(describe_render(self._find(render_id), **self._addresses())))

    def show_list(self) -> HTTPResponse:
        """Answer `GET /v1/renders`."""
        caller, listing = self._caller(), read_query(_query())
        if _exchange().hurry:
            raise TakesLong
        page = list_renders(self._catalog, caller.project_id, listing, **self._addresses())
        return _json(200, msgspec.json.encode(page))

    def download(self, render_id: str) -> HTTPResponse:
        """Answer `GET /v1/renders/:id/download`."""
        return self._send(render_id, HOSTED)

    def embed(self, render_id: str) -> HTTPResponse:
        """Answer `GET /v1/embed/renders/:id/download`."""
        return self._send(render_id, EMBEDDED)

    def _send(self, render_id: str, style: _Style) -> HTTPResponse:
        render, environ, exchange = self._find(render_id), request.environ, _exchange()
        if render.status != "succeeded":
            raise RenderConflictError(f"The render is not ready to download: its status is {render.status}.")
        if render.stored_key is None:
            raise RenderConflictError(f"The render has the status {render.status}, but no stored PDF.")
        modified = datetime.fromisoformat(render.completed_at) if render.completed_at else None
        etag = f'"{render.sha256}"' if render.sha256 else None
        headers = {"Cache-Control": style.cache_control, "X-Content-Type-Options": "nosniff"}
        if etag:
            headers["ETag"] = etag
        if modified:
            headers["Last-Modified"] = format_datetime(modified, usegmt=True)
        verdict = judge(environ, etag, modified)
        if verdict is Verdict.NOT_MODIFIED:
            return _answer(b"", 304, headers)
        if verdict is Verdict.FAILED:
            return _json(412, envelope(PRECONDITION_FAILED.code, "The PDF is not the version that was asked for."))
        if exchange.hurry and (self._bodies.far or (render.size_bytes or 0) > QUICK_BYTES):
            raise TakesLong
        body, size = self._bodies.open(render.stored_key, render.size_bytes, render.sha256)
        exchange.digest = render.sha256
        status, length = 200, size
        if request.method == "HEAD":
            _close(body)
            body = b""
        else:
            try:
                part = choose_part(environ, size, etag, modified)
            except Unsatisfiable:
                _close(body)
                text = envelope(
                    RANGE_NOT_SATISFIABLE.code, f"The range begins behind the end: the PDF has {size} bytes."
                )
                return _json(RANGE_NOT_SATISFIABLE.status, text, {"Content-Range": f"bytes */{size}"})
            if part is not None:
                status, length = 206, part.length
                exchange.part = f"bytes {part.start}-{part.start + part.length - 1}/{size}"
                headers["Content-Range"] = exchange.part
                if isinstance(body, bytes):
                    body = body[part.start : part.start + part.length]
                else:
                    body.seek(part.start)
        headers["Content-Type"] = "application/pdf"
        headers["Content-Length"] = str(length)
        headers["Content-Disposition"] = content_disposition(render.id, style.disposition)
        headers["Accept-Ranges"] = "bytes"
        if render.sha256:
            headers["Repr-Digest"] = repr_digest(render.sha256)
        return _answer(body, status, headers)


def _close(body: Any) -> None:
    if not isinstance(body, bytes):
        body.close()


def _exchange() -> Exchange:
    found: Exchange | None = request.environ.get(EXCHANGE)
    if found is None:
        # Under another server than ours.
        found = request.environ[EXCHANGE] = Exchange(address=request.environ.get("REMOTE_ADDR", ""))
    return found


def _public(body: bytes, kind: str) -> Callable[[], HTTPResponse]:
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **PAGE_HEADERS}
    return lambda: _answer(body, 200, headers)


def _query() -> Mapping[str, str]:
    try:
        return request.query.decode()  # type: ignore[no-any-return]
    except UnicodeDecodeError as error:
        raise QueryError({}, "The request's parameters are no UTF-8.") from error


def _refuse_what_is_not_utf8() -> None:
    # Bottle leaves such bytes out of the path, and would find what was not asked for.
    try:
        request.environ["bottle.raw_path"].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise HTTPError(404) from error


def _answer(body: bytes | BinaryIO, status: int, headers: dict[str, str]) -> HTTPResponse:
    """Make an answer; its headers are as they should be, and Bottle need not look at each by itself."""
    answer = HTTPResponse(body, status)
    answer._headers = {name: [value] for name, value in headers.items()}
    return answer


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> HTTPResponse:
    return _answer(
        body,
        status,
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        },
    )


def _framework_error(error: HTTPError) -> HTTPResponse:
    answer = FRAMEWORK.get(error.status_code, INTERNAL)
    if answer is INTERNAL:
        log.error("internal error", exc_info=error.exception)
        return _json(500, envelope(answer.code, "Something went wrong in the server; its log has more."))
    headers = {"Allow": "GET, HEAD"} if answer.status == 405 else None
    words = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    return _json(answer.status, envelope(answer.code, words[answer.status]), headers)
