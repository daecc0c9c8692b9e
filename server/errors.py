"""What goes wrong, as HTTP: the one table of statuses and the one envelope."""

from typing import NamedTuple

import msgspec

from craftkit_archive import errors


class Answer(NamedTuple):
    """The status and the code, which clients switch on."""

    status: int
    code: str


INTERNAL = Answer(500, "internal")
BAD_REQUEST = Answer(400, "bad_request")
PRECONDITION_FAILED = Answer(412, "precondition_failed")
RANGE_NOT_SATISFIABLE = Answer(416, "range_not_satisfiable")

# Each leaf of the error tree.
ANSWERS: dict[type[errors.ArchiveError], Answer] = {
    errors.RemoteError: INTERNAL,
    errors.UnauthorizedError: Answer(401, "unauthorized"),
    errors.ForbiddenError: Answer(403, "forbidden"),
    errors.RenderNotFoundError: Answer(404, "not_found"),
    errors.RenderConflictError: Answer(409, "conflict"),
    errors.RequestError: INTERNAL,
    errors.NoArchiveError: INTERNAL,
    errors.LockedError: INTERNAL,
    errors.CatalogNewerError: INTERNAL,
    errors.CatalogDamagedError: INTERNAL,
    errors.StoreOfflineError: INTERNAL,
    errors.StoreMismatchError: INTERNAL,
    errors.AssetKeyError: INTERNAL,
    errors.AssetExistsError: INTERNAL,
    errors.AssetMissingError: INTERNAL,
    errors.AssetUnreadableError: INTERNAL,
    errors.AssetDamagedError: INTERNAL,
    errors.NoSpaceError: INTERNAL,
    errors.NotWritableError: INTERNAL,
}


class QueryError(Exception):
    """Parameters of a request make no sense; each that can be read is named, with what it should be."""

    def __init__(
        self, fields: dict[str, str], message: str = "The request's parameters make no sense: see issues."
    ) -> None:
        super().__init__(message)
        self.fields = fields


# What Bottle itself refuses.
FRAMEWORK: dict[int, Answer] = {
    404: Answer(404, "not_found"),
    405: Answer(405, "method_not_allowed"),
}


def envelope(code: str, message: str, fields: dict[str, str] | None = None) -> bytes:
    """Write the body of every error; `fields` are the parameters that are wrong, and what they should be."""
    error: dict[str, object] = {"code": code, "message": message}
    if fields is not None:
        error["issues"] = {"formErrors": [], "fieldErrors": {name: [text] for name, text in fields.items()}}
    return msgspec.json.encode({"error": error})
