"""What is sent: renders as JSON, and PDFs that were compared with their digest first."""

from hashlib import sha256
from urllib.parse import quote

from craftkit_archive.catalog import ServedRender
from craftkit_archive.errors import AssetDamagedError
from craftkit_archive.store import OpenAsset

# A PDF up to this size is sent from memory, and read once; a larger one from the open file that was read before.
MEMORY_BYTES = 256 << 10


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


def verify_body(found: OpenAsset, expected: str | None) -> bytes | None:
    """Read an asset whole and make sure that it is what was recorded.

    Args:
        found: Just opened. It is left open, and stands at its first byte again if it is large.
        expected: The recorded digest.

    Returns:
        The bytes, or None if they are more than `MEMORY_BYTES`: then they are to be sent from the open file.

    Raises:
        AssetDamagedError: It is something else, or no digest is recorded to compare it with.
        AssetUnreadableError: Reading failed.
    """
    hashed, size, kept = sha256(), 0, []
    for chunk in found.chunks():
        hashed.update(chunk)
        size += len(chunk)
        if found.size_bytes <= MEMORY_BYTES:
            kept.append(chunk)
    if hashed.hexdigest() != expected or size != found.size_bytes:
        raise AssetDamagedError(f"{found.key} is not what was recorded: run `craftkit-archive verify`.")
    if size <= MEMORY_BYTES:
        return b"".join(kept)
    found.file.seek(0)
    return None


def content_disposition(render_id: str) -> str:
    """Name the download `<id>.pdf`, whatever characters the id has.

    Source: RFC 6266 and RFC 8187 (the form for what is not ASCII).
    """
    name = f"{render_id}.pdf"
    plain = name.encode("ascii", "replace").decode().replace("\\", "\\\\").replace('"', '\\"')
    extended = "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
