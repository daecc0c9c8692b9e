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

# What Bottle itself refuses.
FRAMEWORK: dict[int, Answer] = {
    404: Answer(404, "not_found"),
    405: Answer(405, "method_not_allowed"),
}


def envelope(code: str, message: str) -> bytes:
    """Write the body of every error."""
    return msgspec.json.encode({"error": {"code": code, "message": message}})
