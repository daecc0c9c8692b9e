"""What is sent: renders as JSON, and PDFs that were compared with their digest first."""

from hashlib import sha256
from urllib.parse import quote

from craftkit_archive.catalog import ServedRender
from craftkit_archive.errors import AssetDamagedError
from craftkit_archive.store import OpenAsset


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


def read_verified(found: OpenAsset, expected: str | None) -> bytes:
    """Read an asset whole and return its bytes, which are the recorded ones.

    Raises:
        AssetDamagedError: They are not, or no digest is recorded to compare them with.
        AssetUnreadableError: Reading failed.
    """
    body = b"".join(found.chunks())
    if sha256(body).hexdigest() != expected:
        raise AssetDamagedError(f"{found.key} is not what was recorded: run `craftkit-archive verify`.")
    return body


def content_disposition(render_id: str) -> str:
    """Name the download `<id>.pdf`, whatever characters the id has.

    Source: RFC 6266 and RFC 8187 (the form for what is not ASCII).
    """
    name = f"{render_id}.pdf"
    plain = name.encode("ascii", "replace").decode().replace("\\", "\\\\").replace('"', '\\"')
    extended = "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
