"""The AWS settings of a bucket, and the few requests that obstore cannot make or whose answers it hides.

Three requests go through botocore, because obstore 0.12 cannot make them:

- lists: obstore takes a truncated page without a continuation token for the last one; and it abandons the whole list at
  a key with an empty part or `..`, which any bucket may hold;
- the digests that a service keeps of an object beside its ETag;
- an upload in parts that must not replace an object: `obstore.put(mode="create")` sends everything in one request.

botocore is imported where it is used: a worker that only reads and writes small objects never needs it, which saves a
quarter of a second.
"""

import base64
import logging
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from craftkit_archive.errors import ArchiveError, RemoteError, RequestError, StoreOfflineError
from craftkit_archive.stores.base import SourceChecksums

OPTIONS = ("endpoint_url", "region", "profile", "no_sign_request")
ATTEMPTS = 5
PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 16.0
TIMEOUT_SECONDS = 60.0
# botocore renews credentials that expire within 10 minutes before it returns them, so they are valid for longer than
# this.
RENEWAL_SECONDS = 300
LANES = 8
_ENCRYPTED = ("SSECustomerAlgorithm", "SSEKMSKeyId")
_OPTIONAL_REFUSED = frozenset({400, 405, 501})
# The statuses for a conditional write whose name is taken.
_CONFLICT = frozenset({409, 412})
# The statuses for requests that a service does not know, or that these credentials may not make.
_UNANSWERED = _OPTIONAL_REFUSED | {403, 404}
# Statuses that botocore's standard mode has retried already.
_RETRIED = frozenset({429, 500, 502, 503, 504})
# Both libraries retry most of 5xx by themselves. These are temporary too, by Amazon's list of S3 error codes.
_HEALING_STATUS = frozenset({408, 409, 425, 429})
_HEALING_CODES = frozenset(
    {"RequestTimeout", "IncompleteBody", "BadDigest", "PriorRequestNotComplete", "XAmzContentSHA256Mismatch"}
)


class Credentials(NamedTuple):
    """The credentials that sign requests."""

    access_key_id: str
    secret_access_key: str
    token: str | None

    def __repr__(self) -> str:
        """Show the id of the key, without the secrets."""
        return f"Credentials({self.access_key_id})"


class BucketAccess(NamedTuple):
    """How to reach a bucket: the resolved AWS settings, picklable for worker processes.

    Attributes:
        endpoint: The service's URL; with the bucket's name in its host if `virtual_hosted`.
        virtual_hosted: Whether the bucket's name is part of the host.
        region: The region that signatures name.
        ca_bundle: A file of certificates to trust besides the system's.
        credentials: None for requests without a signature.
        renewable: Whether the credentials expire.
    """

    endpoint: str
    virtual_hosted: bool
    region: str
    ca_bundle: str | None
    credentials: Credentials | None
    renewable: bool


class S3Service:
    """A bucket at an S3-compatible service, as the options of an address and the AWS settings describe it.

    Args:
        bucket: Its name.
        options: Some of `OPTIONS`.
        access: The resolved settings, if another process has them already.
    """

    def __init__(self, bucket: str, options: dict[str, str], access: BucketAccess | None = None) -> None:
        self._bucket = bucket
        self._options = options
        self._known = access
        self._region = access.region if access else options.get("region")
        self._checksums_refused = False
        self._lock = Lock()
        self.name = f"s3://{bucket}"

    # --- the settings

    @cached_property
    def _session(self) -> Any:
        import botocore.session

        # It would log a traceback besides the error that we raise.
        logging.getLogger("botocore.credentials").setLevel(logging.ERROR)
        with self._errors():
            return botocore.session.Session(profile=self._options.get("profile"))

    @property
    def access(self) -> BucketAccess:
        """How to reach the bucket; resolved from the AWS settings once.

        Raises:
            RequestError: The settings contradict themselves, or name something that does not exist.
            RemoteError: There are no credentials, or they cannot be obtained.
        """
        with self._lock:
            if self._known is None:
                self._known = self._resolve()
            return self._known

    def _resolve(self) -> BucketAccess:
        from botocore.credentials import RefreshableCredentials

        with self._errors():
            credentials = self._find_credentials()
            url: str = self._client.generate_presigned_url("get_object", Params={"Bucket": self._bucket, "Key": "k"})
            parts = urlsplit(url)
            path = parts.path.removesuffix("/k").removesuffix(f"/{self._bucket}")
            return BucketAccess(
                endpoint=f"{parts.scheme}://{parts.netloc}{path}",
                virtual_hosted=(parts.hostname or "").startswith(f"{self._bucket.lower()}."),
                region=self._client.meta.region_name,
                ca_bundle=self._session.get_config_variable("ca_bundle"),
                credentials=None if credentials is None else _freeze(credentials),
                renewable=isinstance(credentials, RefreshableCredentials),
            )

    def _find_credentials(self) -> Any:
        from botocore.exceptions import NoCredentialsError

        if self._options.get("no_sign_request"):
            return None
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return credentials

    def renew(self) -> Credentials:
        """Return credentials that are valid for at least `RENEWAL_SECONDS`."""
        with self._errors():
            return _freeze(self._find_credentials())

    @cached_property
    def _client(self) -> Any:
        with self._errors():
            given = self._session.get_scoped_config().get("s3")
            style = given.get("addressing_style") if isinstance(given, dict) else None
            client = self._connect(style or "auto")
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            if style is None and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
                client = self._connect("path")  # other services rarely have a host name for each bucket
            return client

    def _connect(self, style: Any) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            # Newer versions of botocore add checksums by default, which other services refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=TIMEOUT_SECONDS,
            read_timeout=TIMEOUT_SECONDS,
            max_pool_connections=LANES,
            signature_version=UNSIGNED if self._options.get("no_sign_request") else "s3v4",
            s3={"addressing_style": style},
        )
        # botocore reads only AWS_DEFAULT_REGION; every other AWS tool reads AWS_REGION.
        region = self._region or os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        return self._session.create_client(
            "s3", region_name=region or "us-east-1", endpoint_url=self._options.get("endpoint_url"), config=config
        )

    def move(self, region: str | None) -> bool:
        """Switch to the region that the service has named; return False if it is the present one.

        Args:
            region: The region; None asks the service for it.

        Raises:
            StoreOfflineError, RemoteError: The service cannot be asked.
        """
        region = region or self._ask_region()
        with self._lock:
            if region is None or (self._known is not None and region == self._known.region):
                return False
            self._region, self._known = region, None
            self.__dict__.pop("_client", None)
        return True

    def _ask_region(self) -> str | None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            answer = error.response
        except BotoCoreError:
            return None
        region: str | None = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return region

    # --- the requests

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """List the keys below a prefix, with their sizes in bytes, page by page.

        Raises:
            RemoteError: The service refuses the list, repeats a page, or gives no token for the next one.
        """
        given: dict[str, str] = {}
        while True:
            page = self._ask("list_objects_v2", Prefix=prefix, **given)
            for found in page.get("Contents", ()):
                if not {"Key", "Size"} <= found.keys():
                    raise RemoteError(f"{self.name} lists an object without its name or size. Check --endpoint-url.")
                yield found["Key"], found["Size"]
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == given.get("ContinuationToken"):
                raise RemoteError(
                    f"{self.name} says that its list goes on, and not where: the list is not complete. "
                    "Report this to the service, or copy the bucket to a folder with another tool and use that."
                )
            given = {"ContinuationToken": token}

    def checksums(self, key: str) -> SourceChecksums:
        """Ask the service for the digests that it keeps of a whole object.

        An ETag is an MD5 only if the object was uploaded in one part and is not encrypted with a key of its own.

        Raises:
            RemoteError: It cannot be asked.
        """
        head = self._head(key)
        encrypted = any(name in head for name in _ENCRYPTED) or str(head.get("ServerSideEncryption")).startswith("aws:")
        checksum = None
        with suppress(ValueError):  # that of a multipart upload does not cover the whole, and ends with a number
            checksum = base64.b64decode(head.get("ChecksumSHA256", ""), validate=True).hex() or None
        in_parts = "-" in head.get("ETag", "")
        if head.get("ChecksumType", "COMPOSITE" if in_parts else "FULL_OBJECT") != "FULL_OBJECT":
            checksum = None
        return SourceChecksums(None if encrypted else md5_of(head.get("ETag")), checksum)

    def _head(self, key: str) -> dict[str, Any]:
        if not self._checksums_refused:
            try:
                return self._ask("head_object", Key=key, ChecksumMode="ENABLED")
            except RemoteError as error:
                # Backblaze answers 400 to the header that asks for checksums, others 501.
                if error.status not in _OPTIONAL_REFUSED:
                    raise
                self._checksums_refused = True
        return self._ask("head_object", Key=key)

    def _ask(self, operation: str, **given: Any) -> dict[str, Any]:
        """Make a request through botocore; retry temporary failures that botocore considers final."""
        from botocore.exceptions import ClientError

        with self._errors():
            for pause in pauses():
                try:
                    return getattr(self._client, operation)(Bucket=self._bucket, **given)  # type: ignore[no-any-return]
                except ClientError as error:
                    status, code = status_of(error), error.response.get("Error", {}).get("Code", "")
                    if pause is None or status in _RETRIED or status in _OPTIONAL_REFUSED or not heals(status, code):
                        raise
                time.sleep(pause)
        raise AssertionError  # the last pause is None

    def upload(self, key: str, parts: Iterable[bytes], *, replace: bool, media_type: str) -> bool:
        """Write an object in parts; return False if its name is taken. If it fails, the upload is aborted.

        boto3's own multipart uploads do not accept `IfNoneMatch`.

        Args:
            key: The key of the object.
            parts: Its bytes, at least 5 MiB in each part but the last.
            replace: Whether it may replace an existing object.
            media_type: The media type to report to the service.

        Raises:
            RemoteError: The service refused.
        """
        begun, checksum = self._begin(key, media_type)
        place = {"Key": key, "UploadId": begun}
        done: list[dict[str, Any]] = []
        written = False
        try:
            for number, part in enumerate(parts, 1):
                sent = self._ask("upload_part", **place, **checksum, PartNumber=number, Body=part)
                kept = {name: sent[name] for name in ("ETag", "ChecksumSHA256") if name in sent}
                done.append({"PartNumber": number} | kept)
            written = self._finish({**place, "MultipartUpload": {"Parts": done}}, replace=replace)
        finally:
            if not written:
                with suppress(ArchiveError):
                    self._ask("abort_multipart_upload", **place)
        return written

    def _begin(self, key: str, media_type: str) -> tuple[str, dict[str, str]]:
        # A bucket with Object Lock refuses parts without a checksum; other services do not know checksums.
        checksums: tuple[dict[str, str], ...] = ({"ChecksumAlgorithm": "SHA256"}, {})
        for checksum in checksums:
            try:
                return self._ask("create_multipart_upload", Key=key, ContentType=media_type, **checksum)[
                    "UploadId"
                ], checksum
            except RemoteError as error:
                if not checksum or error.status not in _OPTIONAL_REFUSED:
                    raise
        raise AssertionError  # the second either returns or raises

    def _finish(self, upload: dict[str, Any], *, replace: bool) -> bool:
        """Complete an upload; return False if its name is taken and it may not replace what is there."""
        if not replace:
            try:
                self._ask("complete_multipart_upload", **upload, IfNoneMatch="*")
            except RemoteError as error:
                if error.status in _CONFLICT:
                    return False
                if error.status not in _OPTIONAL_REFUSED:  # else it is a service without conditional writes
                    raise
            else:
                return True
        self._ask("complete_multipart_upload", **upload)
        return True

    def remove(self, key: str) -> str | None:
        """Delete an object, every version of it, and its uploads that were never finished; return what remains.

        Raises:
            RemoteError: The service refused to delete the object itself.
        """
        self.abort_uploads(key)
        self._ask("delete_object", Key=key)
        try:
            versions = list(self._versions(key))
        except RemoteError as error:
            if error.status not in _UNANSWERED:
                raise
            return f"earlier versions, if the bucket keeps any: the service does not list them ({error.reason})"
        refused: list[str] = []
        for version in versions:
            try:
                self._ask("delete_object", Key=key, VersionId=version)
            except RemoteError as error:  # Object Lock, or no right to delete versions
                if error.status not in _UNANSWERED:
                    raise
                refused.append(error.reason)
        return f"{len(refused)} versions that the service does not delete ({refused[0]})" if refused else None

    def _versions(self, key: str) -> Iterator[str]:
        """List the ids of an object's versions, delete markers included."""
        given: dict[str, str] = {}
        while True:
            page = self._ask("list_object_versions", Prefix=key, **given)
            for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if found["Key"] == key:
                    yield found["VersionId"]
            # Below its own prefix, the key comes first, so a page that ends after it is the last one needed.
            if not page.get("IsTruncated") or page.get("NextKeyMarker", "") > key:
                return
            given = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}

    def abort_uploads(self, key: str) -> None:
        """Abort the uploads of an object that were never finished, where the service lists them.

        Raises:
            RemoteError: The service refused.
        """
        try:
            uploads = self._ask("list_multipart_uploads", Prefix=key).get("Uploads", ())
        except RemoteError as error:
            if error.status not in _UNANSWERED:
                raise
            return
        for found in uploads:
            if found["Key"] == key:
                with suppress(RemoteError):  # it has just ended
                    self._ask("abort_multipart_upload", Key=key, UploadId=found["UploadId"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            CredentialRetrievalError,
            HTTPClientError,
            NoCredentialsError,
            PartialCredentialsError,
            SSLError,
        )

        try:
            yield
        except ClientError as error:
            found = error.response.get("Error", {})
            code, said = str(found.get("Code", "unknown")), str(found.get("Message", ""))
            if code == "NoSuchBucket" or (code == "404" and error.operation_name == "ListObjectsV2"):
                raise StoreOfflineError(
                    f"There is no bucket {self._bucket}. Check the bucket name and --endpoint-url."
                ) from error
            raise RemoteError(
                f"{self.name} refused {error.operation_name} ({code}: {said}). {advice(code)}",
                reason=code,
                status=status_of(error),
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise RemoteError(
                f"No credentials for {self.name}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give a --profile, "
                "or, for a public bucket, add --no-sign-request."
            ) from error
        except CredentialRetrievalError as error:
            raise RemoteError(
                f"Cannot get credentials for {self.name} ({error}). Fix the profile or its credential process, "
                "then run the command again."
            ) from error
        except SSLError as error:
            raise RemoteError(untrusted(self.name)) from error
        except (ConnectionError, HTTPClientError) as error:
            where = self._options.get("endpoint_url") or "the S3 endpoint"
            raise StoreOfflineError(
                f"Cannot reach {where} for {self.name} ({type(error).__name__}). Check the network and --endpoint-url."
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise RequestError(f"Cannot use {self.name} ({error}). Check its options and the AWS files.") from error


def status_of(error: Any) -> int:
    """Return the HTTP status of a botocore `ClientError`; 0 if it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def heals(status: int, code: str) -> bool:
    """Return whether a refusal is temporary, so that another attempt may succeed.

    Source: "Error responses" in the Amazon S3 API Reference; RFC 9110, sections 15.5 and 15.6; RFC 8470 (425).
    """
    return status >= 500 or status in _HEALING_STATUS or code in _HEALING_CODES


def pauses() -> Iterator[float | None]:
    """Yield the pause in seconds after each failed attempt; None after the last one."""
    for attempt in range(ATTEMPTS - 1):
        yield min(PAUSE_SECONDS * 2**attempt, MAX_PAUSE_SECONDS) * random.uniform(0.75, 1.25)  # noqa: S311
    yield None


def _freeze(credentials: Any) -> Credentials:
    frozen = credentials.get_frozen_credentials()
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def md5_of(etag: str | None) -> str | None:
    """Return an ETag as 32 lower-case hex digits if it has the form of an MD5, and None if not."""
    tag = (etag or "").strip('"').lower()
    return tag if len(tag) == 32 and not set(tag) - set("0123456789abcdef") else None


def advice(code: str) -> str:
    """Return advice on a refusal, by its code in S3's error document or its HTTP status."""
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AccessDenied", "403"):
        return "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and what they may do."
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return "Add --region with the bucket's region."
    if code == "RequestTimeTooSkewed":
        return "Set this machine's clock."
    return "Try again later, or ask those who run the service."


def untrusted(name: str) -> str:
    """Return the message for a service whose certificate is not trusted."""
    return f"The certificate of {name} is not trusted. Set SSL_CERT_FILE or AWS_CA_BUNDLE to that of its authority."
