"""A live Craftkit API, or a server of ours, to take renders and their PDFs from."""

import base64
import os
import re
from contextlib import suppress
from functools import partial
from tempfile import SpooledTemporaryFile, gettempdir
from time import sleep
from typing import NoReturn
from urllib.parse import quote

import msgspec

from craftkit_archive.errors import (
    AssetUnreadableError,
    ForbiddenError,
    RemoteError,
    RenderConflictError,
    RenderNotFoundError,
    RequestError,
    StoreOfflineError,
    UnauthorizedError,
    disk_errors,
)
from craftkit_archive.remote import BROKEN, Answer, Asked, length_of, pauses, remote, split_url
from craftkit_archive.store import CHUNK_BYTES, Claims, OpenAsset, Opening, mask_address
from craftkit_archive.values import mask

KEY_VARIABLE = "CRAFTKIT_API_KEY"
# What is larger waits in a temporary file: the API may not be able to go on in the middle of a PDF.
SPOOL_BYTES = 1 << 20
MAX_ANSWER_BYTES = 16 << 20
MAX_SAID = 300
_NOBODY = "00000000-0000-0000-0000-000000000000"
_DIGEST = re.compile(r"(?:\A|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):")


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Envelope(msgspec.Struct):
    error: _Problem


class CraftkitApi:
    """The API at an address, asked with the key in `CRAFTKIT_API_KEY`.

    Args:
        address: `https://host`, with a path if the API has one.

    Raises:
        RequestError: The address is none, or there is no key.
    """

    lanes = 8

    def __init__(self, address: str) -> None:
        parts = split_url(address)
        if parts.query or parts.fragment:
            raise RequestError(f"{mask_address(address)} is no address of an API: write https://host.")
        if parts.username is not None:
            raise RequestError(f"A key does not belong into an address: set {KEY_VARIABLE}.")
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise RequestError(f"Set {KEY_VARIABLE} to a key of the project whose renders {address} is to give.")
        self.address = address.rstrip("/")
        self.key = key
        self._path = parts.path.rstrip("/")
        self._remote = remote(self.address, self.lanes)

    def check(self) -> None:
        """Make sure that it is there, is such an API, and accepts the key.

        Raises:
            StoreOfflineError: It cannot be reached, or is something else.
            UnauthorizedError, ForbiddenError: It refuses the key.
            RemoteError: It keeps failing.
        """
        try:
            self.describe(_NOBODY)
        except RenderNotFoundError:
            pass
        except RemoteError as error:
            raise StoreOfflineError(str(error)) from error

    def describe(self, render_id: str) -> bytes:
        """Return the metadata of a render, as JSON.

        Raises:
            RenderNotFoundError: It is not in the key's project.
            UnauthorizedError, ForbiddenError, RemoteError: As `check`.
        """
        answer = self._answer(render_id, self._ask(render_id))
        try:
            found = b""
            while len(found) <= MAX_ANSWER_BYTES and (piece := answer.read(MAX_ANSWER_BYTES + 1 - len(found))):
                found += piece
        except BROKEN as error:
            raise RemoteError(f"{self.address} broke off in its answer: try again later.") from error
        finally:
            answer.finish()
        if len(found) > MAX_ANSWER_BYTES:
            raise RemoteError(f"{self.address} answers more than the metadata of {render_id}: mend the address.")
        return found

    def size(self, render_id: str, _key: str) -> int | None:
        """Return how many bytes a render's PDF has, or None if the API does not say so without sending it.

        Raises:
            RenderNotFoundError, RenderConflictError, UnauthorizedError, ForbiddenError, RemoteError: As `open`.
        """
        answer = self._answer(render_id, self._ask(render_id, "/download", method="HEAD"), silent=True)
        answer.finish()
        return length_of(answer.headers)

    def open(self, render_id: str, key: str, _sha256: str | None = None) -> OpenAsset:
        """Open a render's PDF for reading; all of it has arrived.

        Raises:
            RenderNotFoundError: It is not in the key's project.
            RenderConflictError: It has no PDF to give.
            UnauthorizedError, ForbiddenError: The key is refused.
            AssetUnreadableError: It kept breaking off.
            RemoteError: The API kept failing.
            NoSpaceError, NotWritableError: There is no room for it among the temporary files.
        """
        return self.ask(render_id, key).open()

    def ask(self, render_id: str, key: str) -> Opening:
        """Ask for a render's PDF without waiting for it; what goes wrong is told when it is opened, as by `open`."""
        asked = self._ask(render_id, "/download")
        return Opening(partial(self._open, render_id, key, asked), asked.close)

    def _open(self, render_id: str, key: str, asked: Asked) -> OpenAsset:
        broken: BaseException | None = None
        for pause in pauses():
            answer = self._answer(render_id, asked)
            with disk_errors(gettempdir()):
                spool = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - whoever gets it closes it
                try:
                    size = 0
                    while chunk := answer.read(CHUNK_BYTES):
                        spool.write(chunk)
                        size += len(chunk)
                    spool.seek(0)
                except BaseException as error:
                    spool.close()
                    answer.close()
                    if not isinstance(error, BROKEN):
                        raise
                    broken = error
                else:
                    answer.finish()
                    length = length_of(answer.headers)
                    return OpenAsset(key, spool, size if length is None else length, _claims(answer))  # type: ignore[arg-type]
            if pause is not None:
                sleep(pause)
                asked = self._ask(render_id, "/download")
        raise AssetUnreadableError(f"{self.address} kept breaking off: fetch {render_id} later.") from broken

    def _ask(self, render_id: str, what: str = "", *, method: str = "GET") -> Asked:
        headers = {"Authorization": f"Bearer {self.key}", "Accept-Encoding": "identity"}
        path = f"{self._path}/v1/renders/{quote(render_id, safe='')}{what}"
        return self._remote.ask(method, path, lambda: headers)

    def _answer(self, render_id: str, asked: Asked, *, silent: bool = False) -> Answer:
        answer = asked.answer()
        if answer.status == 200:
            return answer
        self._refuse(render_id, answer, silent=silent)

    def _refuse(self, render_id: str, answer: Answer, *, silent: bool) -> NoReturn:
        status = answer.status
        try:
            problem = msgspec.json.decode(b"" if silent else answer.read(65_536), type=_Envelope).error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, *BROKEN):
            problem = _Problem()
        answer.finish()
        # It ends up on screens and in the catalog, so that the key must not, should they send it back.
        message = mask(problem.message.replace(self.key, "…"))[:MAX_SAID]
        said = f" ({message})" if message else ""
        if status == 401:
            raise UnauthorizedError(f"{self.address} refuses the key{said}: set {KEY_VARIABLE} to one that is good.")
        if status == 403:
            raise ForbiddenError(f"{self.address} refuses the key's project{said}: it was deleted.")
        if status == 404 and (problem.code == "not_found" or silent):
            raise RenderNotFoundError(f"{self.address} has no render {render_id} in the key's project.")
        if status == 409:
            raise RenderConflictError(f"{self.address} has no PDF of {render_id}{said}.")
        raise RemoteError(f"{self.address} answers {status}, which no Craftkit API does: mend the address.")


def _claims(answer: Answer) -> Claims:
    """Read what the answer says of the digest of its body (RFC 9530, section 3)."""
    found = _DIGEST.search(answer.headers.get("repr-digest", ""))
    with suppress(ValueError):
        if found:
            return Claims(sha256=base64.b64decode(found[1], validate=True).hex(), by="repr-digest")
    return Claims()
