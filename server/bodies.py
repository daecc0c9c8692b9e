"""What is sent: renders as JSON, and PDFs that were compared with what is recorded first."""

from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from tempfile import TemporaryFile
from threading import Lock
from typing import BinaryIO, Literal, NamedTuple
from urllib.parse import quote

from craftkit_archive.catalog import ServedRender
from craftkit_archive.errors import AssetDamagedError
from craftkit_archive.store import OpenAsset, Store

VerifyReads = Literal["always", "size", "never"]

SMALL_BYTES = 256 << 10  # up to here nobody asks whether there is memory
MAX_BUFFER_BYTES = 64 << 20


def describe_render(render: ServedRender, *, api_url: str, s3_public_url: str | None) -> dict[str, object]:
    """Write a render as `GET /v1/renders/:id` answers it.

    Args:
        render: The render.
        api_url: Where clients reach this API; without a slash at its end.
        s3_public_url: Where clients reach the bucket, if they do; the permanent address of each object lies below it.
    """
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


class Verified(NamedTuple):
    """A PDF that may be sent: its bytes, or an open file of them that stands at the first, and their number."""

    body: bytes | BinaryIO
    size_bytes: int


class Bodies:
    """Opens PDFs for sending.

    Args:
        store: Where they are.
        verify: What is compared with the record before the first byte is sent: every byte, the size, or nothing.
        max_buffer_bytes: How much memory PDFs above 256 KiB may take, all together, while they are sent. One that
            finds no room is read a second time, from the file that was opened for the first; one from a network is
            kept in a temporary file.

    Attributes:
        far: Whether opening one waits for a network.
    """

    def __init__(
        self, store: Store, *, verify: VerifyReads = "always", max_buffer_bytes: int = MAX_BUFFER_BYTES
    ) -> None:
        self._store = store
        self.far = store.lanes > 1
        self._verify = verify
        self._room = max_buffer_bytes
        self._lock = Lock()

    def open(self, key: str, size_bytes: int | None, digest: str | None) -> Verified:
        """Open a PDF, and make sure that it is what was recorded. A file must be closed by whoever gets it.

        Args:
            key: Its asset key.
            size_bytes: Its recorded size.
            digest: Its recorded digest.

        Raises:
            AssetDamagedError: It is something else, or nothing is recorded to compare it with.
            AssetError: It cannot be read.
        """
        found = self._store.open(key)
        kept: Verified | None = None
        try:
            if self._verify != "never" and found.size_bytes != size_bytes:
                raise _damaged(key)
            if found.size_bytes <= SMALL_BYTES:
                kept = self._read_small(found, digest)
            else:
                kept = self._read_large(found, digest)
        finally:
            if kept is None or kept.body is not found.file:
                found.file.close()
        return kept

    def _read_small(self, found: OpenAsset, digest: str | None) -> Verified:
        pieces, missing = [], found.size_bytes
        for piece in found.chunks():
            pieces.append(piece)
            missing -= len(piece)
            if missing <= 0:
                break  # to ask for more and hear that there is none costs as much as comparing
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if missing or (self._verify == "always" and sha256(body).hexdigest() != digest):
            raise _damaged(found.key)
        return Verified(body, len(body))

    def _read_large(self, found: OpenAsset, digest: str | None) -> Verified:
        held = self._make_room(found.size_bytes) or (TemporaryFile() if self.far else None)  # noqa: SIM115
        if held is None and self._verify != "always":
            return Verified(found.file, found.size_bytes)
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
            if held is not None:
                held.close()
            raise
        body = found.file if held is None else held
        body.seek(0)
        return Verified(body, size)

    def _make_room(self, size_bytes: int) -> "_Held | None":
        with self._lock:
            if size_bytes > self._room:
                return None
            self._room -= size_bytes
        return _Held(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Take back memory that was lent."""
        with self._lock:
            self._room += size_bytes


class _Held(BytesIO):
    """Bytes in memory, which is given back when they are closed."""

    def __init__(self, lender: Bodies, size_bytes: int) -> None:
        super().__init__()
        self._lender = lender
        self._size_bytes = size_bytes

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._lender.give_back(self._size_bytes)


def _damaged(key: str) -> AssetDamagedError:
    return AssetDamagedError(f"{key} is not what was recorded: run `craftkit-archive verify`.")


def content_disposition(render_id: str, kind: Literal["attachment", "inline"] = "attachment") -> str:
    """Name the download `<id>.pdf`, whatever characters the id has.

    Source: RFC 6266 and RFC 8187 (the form for what is not ASCII).
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
    """Write a digest (64 hex digits) as the header that lets a client prove what it got.

    Source: RFC 9530.
    """
    return f"sha-256=:{b64encode(bytes.fromhex(digest)).decode()}:"
