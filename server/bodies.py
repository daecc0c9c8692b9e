"""The bodies of answers: renders as JSON, and PDFs, which are compared with their records first."""

from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from tempfile import TemporaryFile
from typing import BinaryIO, Literal
from urllib.parse import quote

from craftkit_archive.catalog.rows import ServedRender
from craftkit_archive.errors import AssetDamagedError
from craftkit_archive.stores.base import Store

VerifyReads = Literal["always", "size", "never"]

MAX_BUFFER_BYTES = 256 << 10


def describe_render(render: ServedRender, *, api_url: str, s3_public_url: str | None) -> dict[str, object]:
    """Return a render as the answer of `GET /v1/renders/:id`."""
    own_url = f"{api_url}/v1/renders/{quote(render.id, safe='')}"
    download_url = None
    if render.status == "succeeded" and not render.disposed:
        download_url = f"{own_url}/download"
        if s3_public_url and render.asset_key:
            download_url = f"{s3_public_url.rstrip('/')}/{quote(render.asset_key)}"
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


def open_pdf(store: Store, render: ServedRender, verify: VerifyReads, max_buffer_bytes: int) -> tuple[BinaryIO, int]:
    """Open a stored PDF for sending, after comparing it with its record: every byte, its size, or nothing.

    A PDF of at most `max_buffer_bytes` is sent from memory. A larger one is read again while it is sent, from the same
    open file that was compared; if it comes over a network, it is kept in a temporary file.

    Returns:
        A seekable file at its first byte, which the caller closes, and its size in bytes.

    Raises:
        AssetDamagedError: It differs from its record, or has no record to compare it with.
        AssetError: The PDF cannot be read.
    """
    assert render.stored_key is not None  # noqa: S101 - for the type checker
    found = store.open(render.stored_key)
    memory = BytesIO() if found.size_bytes <= max_buffer_bytes else None
    file = memory or (TemporaryFile() if store.lanes > 1 else found.file)  # noqa: SIM115 - the caller closes it
    try:
        same, hashed = verify == "never" or found.size_bytes == render.size_bytes, sha256()
        if same and (verify == "always" or file is not found.file):
            for piece in found.views():
                if verify == "always":
                    hashed.update(piece)
                if file is not found.file:
                    file.write(piece)
            same = hashed.hexdigest() == render.sha256 if verify == "always" else file.tell() == found.size_bytes
        if not same:
            raise AssetDamagedError(
                f"{found.key} differs from its record. Run `craftkit-archive verify` to see which others do."
            )
        file.seek(0)
        if memory:
            memory.getvalue()  # shrinks the buffer to its content, so that reading all of it makes no copy
    except BaseException:
        file.close()
        raise
    finally:
        if file is not found.file:
            found.file.close()
    return file, found.size_bytes


def describe_pdf(render: ServedRender, length: int, kind: Literal["attachment", "inline"]) -> dict[str, str]:
    """Return the headers of a PDF, or of a part of it, of `length` bytes, with the file name `<id>.pdf`.

    `Repr-Digest` lets a client verify what it received.

    Source: RFC 6266, RFC 8187 for characters outside ASCII in the name, and RFC 9530 for the digest.
    """
    name = f"{render.id}.pdf"
    plain = "".join(character if " " <= character <= "~" else "?" for character in name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    headers = {"Content-Type": "application/pdf", "Content-Length": str(length), "Accept-Ranges": "bytes"}
    headers["Content-Disposition"] = f'{kind}; filename="{escaped}"{extended}'
    if render.sha256:
        headers["Repr-Digest"] = f"sha-256=:{b64encode(bytes.fromhex(render.sha256)).decode()}:"
    return headers
