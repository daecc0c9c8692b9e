"""Errors in HTTP: the only table of statuses, and the JSON envelope."""

from dataclasses import dataclass, field

from craftkit_archive import errors

# The codes in the envelope, by which clients distinguish errors.
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
# The leaves of the error tree: most are the server's fault.
ANSWERS: dict[type[errors.ArchiveError], str] = dict.fromkeys(errors.leaves(), "internal") | {
    errors.UnauthorizedError: "unauthorized",
    errors.ForbiddenError: "forbidden",
    errors.RenderNotFoundError: "not_found",
    errors.RenderConflictError: "conflict",
}


@dataclass(eq=False)
class Rejection(Exception):
    """A request is rejected with this answer."""

    code: str  # a key of `STATUSES`
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] | None = None  # the invalid parameters, each with advice
    status: int = 0  # 0 for that of the code

    @property
    def envelope(self) -> dict[str, object]:
        """The body of the answer."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.fields is not None:
            error["issues"] = {"formErrors": [], "fieldErrors": {name: [text] for name, text in self.fields.items()}}
        return {"error": error}
