"""Errors as HTTP: the one table of statuses and the one envelope."""

from typing import NamedTuple

import msgspec

from craftkit_archive import errors


class Answer(NamedTuple):
    """The status, and the code that clients switch on."""

    status: int
    code: str


INTERNAL = Answer(500, "internal")
BAD_REQUEST = Answer(400, "bad_request")
NOT_THERE = Answer(404, "not_found")
METHOD_NOT_ALLOWED = Answer(405, "method_not_allowed")
PRECONDITION_FAILED = Answer(412, "precondition_failed")
RANGE_NOT_SATISFIABLE = Answer(416, "range_not_satisfiable")
NOT_READY = Answer(503, "not_ready")

# The leaves of the error tree that are not our fault; all others are internal.
_REFUSALS: dict[type[errors.ArchiveError], Answer] = {
    errors.UnauthorizedError: Answer(401, "unauthorized"),
    errors.ForbiddenError: Answer(403, "forbidden"),
    errors.RenderNotFoundError: NOT_THERE,
    errors.RenderConflictError: Answer(409, "conflict"),
}
ANSWERS = {leaf: _REFUSALS.get(leaf, INTERNAL) for leaf in errors.leaves()}


class QueryError(Exception):
    """Query parameters are invalid; `fields` has each of them, with what is expected of it."""

    def __init__(self, fields: dict[str, str], message: str = "Invalid query parameters: see issues.") -> None:
        super().__init__(message)
        self.fields = fields


def envelope(code: str, message: str, fields: dict[str, str] | None = None) -> bytes:
    """Return the body of an error; `fields` are the invalid parameters, with what is expected of each."""
    error: dict[str, object] = {"code": code, "message": message}
    if fields is not None:
        error["issues"] = {"formErrors": [], "fieldErrors": {name: [text] for name, text in fields.items()}}
    return msgspec.json.encode({"error": error})
