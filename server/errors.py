"""Errors as HTTP: the one table of statuses and the one envelope."""

import msgspec

from craftkit_archive import errors

# The codes that clients switch on.
STATUSES = {
    "bad_request": 400,
    "unauthorized": 401,
    "invalid_credentials": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "precondition_failed": 412,
    "range_not_satisfiable": 416,
    "internal": 500,
    "not_ready": 503,
}
# The leaves of the error tree that are not our fault; all others are internal.
_REFUSALS: dict[type[errors.ArchiveError], str] = {
    errors.UnauthorizedError: "unauthorized",
    errors.ForbiddenError: "forbidden",
    errors.RenderNotFoundError: "not_found",
    errors.RenderConflictError: "conflict",
}
ANSWERS = {leaf: _REFUSALS.get(leaf, "internal") for leaf in errors.leaves()}


class Refusal(Exception):
    """A request is refused with a code of `STATUSES`; `fields` are its invalid parameters, each with what to use."""

    def __init__(
        self, code: str, message: str, headers: dict[str, str] | None = None, fields: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.headers, self.fields = code, headers or {}, fields


def envelope(code: str, message: str, fields: dict[str, str] | None = None) -> bytes:
    """Return the body of an error; `fields` are the invalid parameters, each with what to use."""
    error: dict[str, object] = {"code": code, "message": message}
    if fields is not None:
        error["issues"] = {"formErrors": [], "fieldErrors": {name: [text] for name, text in fields.items()}}
    return msgspec.json.encode({"error": error})
