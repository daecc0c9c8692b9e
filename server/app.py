"""The routes: `create_app` makes a WSGI application of an archive."""

import logging
from contextlib import ExitStack
from datetime import datetime
from email.utils import format_datetime
from typing import Any, NamedTuple

import msgspec
from bottle import Bottle, HTTPError, HTTPResponse, request

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import ServedRender
from craftkit_archive.errors import ArchiveError, RenderConflictError, RenderNotFoundError
from server.auth import project_of
from server.bodies import content_disposition, describe_render, verify_body
from server.errors import ANSWERS, FRAMEWORK, INTERNAL, envelope

log = logging.getLogger("craftkit_archive.server")


class Settings(NamedTuple):
    """How the server presents itself.

    Attributes:
        public_url: Where clients reach it; taken from each request if not given.
        s3_public_url: Where clients reach the bucket, if they do.
        listen_url: Where it listens: for requests that do not say where they were sent.
    """

    public_url: str | None = None
    s3_public_url: str | None = None
    listen_url: str = "http://localhost"


def create_app(archive: Archive, settings: Settings | None = None) -> Bottle:
    """Make the WSGI application that serves an archive, which may be open read-only."""
    settings = settings or Settings()
    app = Bottle()
    app.default_error_handler = _framework_error

    def find_render(render_id: str) -> ServedRender:
        project_id = project_of(archive.catalog, request.environ.get("HTTP_AUTHORIZATION"))
        render = archive.catalog.find_render(project_id, render_id)
        if render is None:
            raise RenderNotFoundError("There is no render with this id in the project of this API key.")
        return render

    @app.hook("before_request")
    def refuse_what_is_not_utf8() -> None:
        # Bottle leaves such bytes out of the path, and would find what was not asked for.
        try:
            request.environ["bottle.raw_path"].encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            raise HTTPError(404) from error

    @app.install
    def answer_errors(callback: Any) -> Any:
        def answer(*args: Any, **names: Any) -> HTTPResponse:
            try:
                return callback(*args, **names)
            except ArchiveError as error:
                return _refuse(error)

        return answer

    @app.get("/health")
    def health() -> HTTPResponse:
        return _json(200, msgspec.json.encode({"status": "ok"}))

    @app.get("/v1/renders/<render_id>")
    def show(render_id: str) -> HTTPResponse:
        render = find_render(render_id)
        asked = f"{request.urlparts.scheme}://{request.urlparts.netloc}" if request.environ.get("HTTP_HOST") else None
        base = settings.public_url or asked or settings.listen_url
        bucket = settings.s3_public_url
        body = describe_render(render, api_url=base.rstrip("/"), s3_public_url=bucket.rstrip("/") if bucket else None)
        return _json(200, msgspec.json.encode(body))

    @app.get("/v1/renders/<render_id>/download")
    def download(render_id: str) -> HTTPResponse:
        render = find_render(render_id)
        if render.status != "succeeded":
            raise RenderConflictError(f"The render is not ready to download: its status is {render.status}.")
        if render.stored_key is None:
            raise RenderConflictError(f"The render has the status {render.status}, but no stored PDF.")
        found = archive.store.open(render.stored_key)
        with ExitStack() as stack:
            stack.enter_context(found)
            body = verify_body(found, render.sha256)
            if body is None and request.method == "GET":
                stack.pop_all()  # waitress closes it when it is sent
        return HTTPResponse(
            found.file if body is None and request.method == "GET" else body,
            200,
            {
                "Content-Type": "application/pdf",
                "Content-Length": str(found.size_bytes),
                "Content-Disposition": content_disposition(render.id),
                "ETag": f'"{render.sha256}"',
                **_last_modified(render.completed_at),
                "Cache-Control": "private, no-cache",
                "X-Content-Type-Options": "nosniff",
            },
        )

    return app


def _last_modified(completed_at: str | None) -> dict[str, str]:
    if completed_at is None:
        return {}
    return {"Last-Modified": format_datetime(datetime.fromisoformat(completed_at), usegmt=True)}


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> HTTPResponse:
    return HTTPResponse(
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


def _refuse(error: ArchiveError) -> HTTPResponse:
    answer = ANSWERS[type(error)]
    if answer is INTERNAL:
        log.error("%s", error)
        return _json(500, envelope(INTERNAL.code, "The PDF or the catalog could not be read from storage."))
    headers = {"WWW-Authenticate": "Bearer"} if answer.status == 401 else None
    return _json(answer.status, envelope(answer.code, str(error)), headers)


def _framework_error(error: HTTPError) -> HTTPResponse:
    answer = FRAMEWORK.get(error.status_code, INTERNAL)
    if answer is INTERNAL:
        log.error("internal error", exc_info=error.exception)
        return _json(500, envelope(answer.code, "Something went wrong in the server; its log has more."))
    headers = {"Allow": "GET, HEAD"} if answer.status == 405 else None
    words = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    return _json(answer.status, envelope(answer.code, words[answer.status]), headers)
