"""What is sent: renders as JSON, and PDFs whose bytes are compared with the record first."""

import errno
from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from tempfile import TemporaryFile
from threading import Lock
from typing import BinaryIO, Literal, NamedTuple, cast
from urllib.parse import quote

from craftkit_archive.catalog import ServedRender
from craftkit_archive.errors import AssetDamagedError
from craftkit_archive.store import OpenAsset, Store

VerifyReads = Literal["always", "size", "never"]

SMALL_BYTES = 256 << 10  # up to this size, memory is not accounted for
MAX_BUFFER_BYTES = 64 << 20


def describe_render(render: ServedRender, *, api_url: str, s3_public_url: str | None) -> dict[str, object]:
    """Describe a render as `GET /v1/renders/:id` answers it; the URLs have no slash at their ends."""
    own_url = f"{api_url}/v1/renders/{quote(render.id, safe='')}"
    download_url = None
    if render.status == "succeeded":
        public = f"{s3_public_url}/{quote(render.asset_key)}" if s3_public_url and render.asset_key else None
        download_url = public or f"{own_url}/download"
    return {
        "id": render.id,
        "status": render.status,
        "pollUrl": own_url,
        "downloadUrl": download_url,
        "errorMessage": render.error_message,
        "createdAt": render.created_at,
        "completedAt": render.completed_at,
        "durationMs": render.duration_ms,
    }


class VerifiedBody(NamedTuple):
    """A PDF that may be sent: a seekable file at its first byte, which the receiver closes, and its size."""

    file: BinaryIO
    size_bytes: int


class Bodies:
    """Opens PDFs for sending, compared with their records: every byte, the size, or nothing.

    Those above 256 KiB take `max_buffer_bytes` of memory, all together, while they are sent. One for which there is no
    room is read a second time, from the file that was opened for the first; one from a network (`remote`) is kept in a
    temporary file.
    """

    def __init__(
        self, store: Store, *, verify: VerifyReads = "always", max_buffer_bytes: int = MAX_BUFFER_BYTES
    ) -> None:
        self._store = store
        self.remote = store.lanes > 1
        self._verify = verify
        self._room = max_buffer_bytes
        self._lock = Lock()

    def open(self, key: str, size_bytes: int | None, digest: str | None) -> VerifiedBody:
        """Open a PDF and compare it with its record.

        Raises:
            AssetDamagedError: It differs from its record, or there is no record to compare it with.
            AssetError: It cannot be read.
        """
        found = self._store.open(key)
        body: VerifiedBody | None = None
        try:
            if self._verify != "never" and found.size_bytes != size_bytes:
                raise _damaged(key)
            small = found.size_bytes <= SMALL_BYTES
            body = self._read_small(found, digest) if small else self._read_large(found, digest)
        finally:
            if body is None or not isinstance(body.file, _UnshrinkableFile):
                found.file.close()
        return body

    def _read_small(self, found: OpenAsset, digest: str | None) -> VerifiedBody:
        body, pieces = b"", found.chunks()
        while len(body) < found.size_bytes and (piece := next(pieces, b"")):
            body = body + piece if body else piece  # a read only to see the end would cost as much as the digest
        if len(body) != found.size_bytes or (self._verify == "always" and sha256(body).hexdigest() != digest):
            raise _damaged(found.key)
        return VerifiedBody(BytesIO(body), len(body))

    def _read_large(self, found: OpenAsset, digest: str | None) -> VerifiedBody:
        held = self._make_room(found.size_bytes) or (TemporaryFile() if self.remote else None)  # noqa: SIM115
        file = cast("BinaryIO", _UnshrinkableFile(found.file)) if held is None else held
        if held is None and self._verify != "always":
            return VerifiedBody(file, found.size_bytes)
        hashed, size = sha256(), 0
        try:
            for piece in found.chunks():
                size += len(piece)
                if self._verify == "always":
                    hashed.update(piece)
                if held is not None:
                    held.write(piece)
            if size != found.size_bytes or (self._verify == "always" and hashed.hexdigest() != digest):
                raise _damaged(found.key)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return VerifiedBody(file, size)

    def _make_room(self, size_bytes: int) -> "_HeldBytes | None":
        with self._lock:
            if size_bytes > self._room:
                return None
            self._room -= size_bytes
        return _HeldBytes(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Take back memory that was lent."""
        with self._lock:
            self._room += size_bytes


class _HeldBytes(BytesIO):
    """Bytes in memory that is given back when they are closed."""

    def __init__(self, lender: Bodies, size_bytes: int) -> None:
        super().__init__()
        self._lender = lender
        self._size_bytes = size_bytes

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._lender.give_back(self._size_bytes)


class _UnshrinkableFile:
    """A file whose end comes as an error: waitress would wait forever for the bytes of a file that was cut off."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, count: int) -> bytes:
        if not (piece := self._file.read(count)):
            raise OSError(errno.EIO, "the file was cut off while it was sent")
        return piece


def _damaged(key: str) -> AssetDamagedError:
    return AssetDamagedError(f"{key} differs from its record. Run `craftkit-archive verify` to see which others do.")


def content_disposition(render_id: str, kind: Literal["attachment", "inline"] = "attachment") -> str:
    """Name the download `<id>.pdf`, whatever characters the id has.

    Source: RFC 6266, and RFC 8187 for characters outside ASCII.
    """
    name = f"{render_id}.pdf"
    if name.isascii() and name.isprintable():
        extended, plain = "", name
    else:
        extended = f"; filename*=UTF-8''{quote(name, safe='')}"
        plain = "".join(character if " " <= character <= "~" else "?" for character in name)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'{kind}; filename="{escaped}"{extended}'


def repr_digest(digest: str) -> str:
    """Return the `Repr-Digest` of a digest (64 hex digits), with which a client proves what it received.

    Source: RFC 9530.
    """
    return f"sha-256=:{b64encode(bytes.fromhex(digest)).decode()}:"
