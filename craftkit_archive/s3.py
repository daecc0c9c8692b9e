"""The S3 store: a bucket and a prefix of any service that speaks S3."""

import base64
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from hashlib import sha256
from typing import Any, Literal, NoReturn
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from craftkit_archive.errors import (
    AssetExistsError,
    AssetKeyError,
    AssetMissingError,
    AssetUnreadableError,
    RemoteError,
    RequestError,
    StoreMismatchError,
    StoreOfflineError,
)
from craftkit_archive.remote import (
    ATTEMPTS,
    BROKEN,
    TIMEOUT_SECONDS,
    Answer,
    Asked,
    Body,
    Remote,
    length_of,
    remote,
    split_url,
)
from craftkit_archive.store import MARKER, Claims, Entry, OpenAsset, Opening, Piece, Store, Stored, mask_address
from craftkit_archive.values import check_asset_key

SCHEME = "s3://"
# Parts of an upload; S3 takes at most 10,000 of them, none but the last under 5 MiB.
PART_BYTES = 16 << 20
_NO_BODY = sha256().hexdigest()
_OPTIONS = ("endpoint_url", "region", "profile")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,254}")
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_ENCRYPTED = ("x-amz-server-side-encryption-customer-algorithm", "x-amz-server-side-encryption-aws-kms-key-id")


def s3_address(address: str, **options: str | None) -> str:
    """Put the options of a service into the address of a bucket, which then says all that there is to say.

    Args:
        address: `s3://bucket/prefix`, which may have options already.
        options: `endpoint_url`, `region` and `profile`; None where nothing is given.

    Raises:
        RequestError: An option cannot be part of it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return address
    if not address.startswith(SCHEME):
        raise RequestError(f"{', '.join(given)} are for a bucket, and {mask_address(address)} is none: leave them out.")
    bare, _, query = address.partition("?")
    return f"{bare}?{urlencode(dict(parse_qsl(query)) | given)}"


class Signer:
    """Signs requests without a body; botocore's own signer takes ten times as long, which is half a small GET.

    Source: "Signature Version 4" in the Amazon S3 API Reference (AWS4-HMAC-SHA256, in the Authorization header).

    Args:
        credentials: botocore's, which renew themselves.
        region: The bucket's.
        host: As the Host header has it.
    """

    def __init__(self, credentials: Any, region: str, host: str) -> None:
        self._credentials = credentials
        self._region = region
        self._host = host
        self._key = ("", "", b"")  # day, secret, the key that is derived from them

    def sign(self, method: str, path: str, headers: Mapping[str, str], now: datetime | None = None) -> dict[str, str]:
        """Return the headers with those that prove who asks.

        Args:
            method: HTTP's.
            path: Percent-encoded.
            headers: Further headers.
            now: UTC; the time of the call if not given.
        """
        credentials = self._credentials.get_frozen_credentials()
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        given = {**headers, "x-amz-content-sha256": _NO_BODY, "x-amz-date": stamp}
        if credentials.token:
            given["x-amz-security-token"] = credentials.token
        lines = sorted((name.lower(), value) for name, value in {**given, "host": self._host}.items())
        names = ";".join(name for name, _ in lines)
        canonical = "".join(f"{name}:{value}\n" for name, value in lines)
        asked = f"{method}\n{path}\n\n{canonical}\n{names}\n{_NO_BODY}"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(asked.encode()).hexdigest()}"
        signature = hmac.digest(self._derived(stamp[:8], credentials.secret_key), text.encode(), "sha256").hex()
        given["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},SignedHeaders={names},Signature={signature}"
        )
        given["Accept-Encoding"] = "identity"
        return given

    def _derived(self, day: str, secret: str) -> bytes:
        if self._key[:2] != (day, secret):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (day, secret, key)
        return self._key[2]


class S3Store(Store):
    """A store in a bucket, below a prefix. Credentials come from the environment or the usual AWS files.

    Objects are found, listed and written through boto3; they are read through signed requests of our own, which take
    a fifth of the time.

    Args:
        address: `s3://bucket/prefix`, with `?endpoint_url=…&region=…&profile=…` where the defaults do not do.

    Raises:
        RequestError: The address is none.
    """

    lanes = 8

    def __init__(self, address: str) -> None:
        bare, _, query = address.removeprefix(SCHEME).partition("?")
        self._bucket, _, prefix = bare.partition("/")
        self._options = dict(parse_qsl(query))
        wrong = set(self._options) - set(_OPTIONS)
        if not _BUCKET.fullmatch(self._bucket) or wrong:
            raise RequestError(f"{mask_address(address)} is no bucket: write s3://bucket/prefix.")
        if "endpoint_url" in self._options and "@" in split_url(self._options["endpoint_url"]).netloc:
            raise RequestError("Credentials do not belong into an address: set AWS_ACCESS_KEY_ID and its companions.")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.address = s3_address(f"{SCHEME}{self._bucket}/{self._prefix}".rstrip("/"), **self._options)
        self._name = f"{SCHEME}{self._bucket}/{self._prefix}".rstrip("/")

    # --- the service

    @cached_property
    def _session(self) -> Any:
        with self._errors():
            session = boto3.session.Session(
                profile_name=self._options.get("profile"), region_name=self._options.get("region")
            )
            if session.get_credentials() is None:
                raise NoCredentialsError
            # Most of the time of a listing goes into reading times, which nobody here wants.
            session._session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            return session

    @cached_property
    def _client(self) -> Any:
        session = self._session
        with self._errors():
            client = self._connect(session, "auto")
            if not (urlsplit(client.meta.endpoint_url).hostname or "").endswith(
                (".amazonaws.com", ".amazonaws.com.cn")
            ):
                # Others rarely have a host name for each bucket.
                client = self._connect(session, "path")
            return client

    def _connect(self, session: Any, style: Literal["auto", "path"]) -> Any:
        config = Config(
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            # What newer versions of boto3 add by default, other services refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=TIMEOUT_SECONDS,
            read_timeout=TIMEOUT_SECONDS,
            max_pool_connections=self.lanes,
            s3={"addressing_style": style},
        )
        return session.client("s3", endpoint_url=self._options.get("endpoint_url"), config=config)

    @cached_property
    def _base(self) -> SplitResult:
        """The URL of the bucket, with a slash."""
        endpoint = self._options.get("endpoint_url")
        if endpoint is not None and ".amazonaws.com" not in endpoint:
            # What the client would say too; a worker that only reads need not make one.
            return urlsplit(f"{endpoint.rstrip('/')}/{self._bucket}/")
        with self._errors():
            url: str = self._client.generate_presigned_url("get_object", Params={"Bucket": self._bucket, "Key": "k"})
        return urlsplit(url.partition("?")[0][: -len("k")])

    @cached_property
    def _remote(self) -> Remote:
        ca_bundle = self._session._session.get_config_variable("ca_bundle")
        return remote(self._base.geturl(), self.lanes, ca_bundle)

    @cached_property
    def _signer(self) -> Signer:
        region = self._session.region_name or "us-east-1"
        return Signer(self._session.get_credentials(), region, self._base.netloc)

    def _ask(self, method: str, key: str, **headers: str) -> Asked:
        """Ask for an object."""
        path = f"{self._base.path}{quote(self._prefix + key, safe='/~')}"
        headers["x-amz-checksum-mode"] = "ENABLED"
        return self._remote.ask(method, path, lambda: self._signer.sign(method, path, headers))

    def _request(self, method: str, key: str, **headers: str) -> Answer:
        """Ask for an object, and wait for the answer; one that is not about its bytes is raised."""
        return self._answer(key, self._ask(method, key, **headers))

    def _answer(self, key: str, asked: Asked) -> Answer:
        answer = asked.answer()
        if answer.status in (200, 206):
            return answer
        self._refuse(key, answer)

    def _refuse(self, key: str, answer: Answer) -> NoReturn:
        status, text = answer.status, ""
        with suppress(*BROKEN):
            text = answer.read(4096).decode("utf-8", "replace")
        answer.finish()
        found = re.search(r"<Code>([A-Za-z]{1,100})</Code>", text)
        code = found[1] if found else f"HTTP {status}"
        if status == 404 and code != "NoSuchBucket":
            raise AssetMissingError(f"{key} is not in {self._name}.")
        if status == 416:
            raise AssetUnreadableError(f"{key} is shorter in {self._name} than was said: fetch it again.")
        if status == 412:
            raise AssetUnreadableError(f"{key} changed in {self._name} while it was read: fetch it again.")
        if code in ("AccessDenied", "InvalidObjectState", "HTTP 403"):
            raise AssetUnreadableError(f"{self._name} does not give {key} away ({code}): look at its rights and class.")
        raise RemoteError(_advice(self._name, code, answer.headers.get("x-amz-bucket-region")))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
            if code == "NoSuchBucket" or (code == "404" and status == 404):
                raise StoreOfflineError(
                    f"There is no bucket {self._bucket}: mend the address or the endpoint."
                ) from error
            raise RemoteError(_advice(self._name, code, region)) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise RemoteError(
                f"No credentials for {self._name}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a --profile."
            ) from error
        except (ConnectionError, HTTPClientError) as error:
            raise StoreOfflineError(f"{self._name} cannot be reached ({type(error).__name__}): try later.") from error
        except (BotoCoreError, ValueError) as error:
            raise RequestError(f"{self._name} cannot be used ({error}): mend its options or the AWS files.") from error

    # --- the store

    def check(self, archive_id: str | None = None) -> None:
        """See `Store.check`; a prefix with nothing below it is one that is not there."""
        if not self._reach():
            raise StoreOfflineError(f"There is nothing below {self._name}: mend the address.")
        if archive_id is None:
            return
        owner = self.owner()
        if owner is None:
            raise StoreOfflineError(f"{self._name} has no object {MARKER}: mend the address.")
        if owner != archive_id:
            raise StoreMismatchError(f"{self._name} belongs to archive {owner}, not to {archive_id}: mend the address.")

    def _reach(self) -> bool:
        """Say whether anything is there; what stands in the way is raised."""
        with self._errors():
            found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        return bool(found.get("KeyCount", len(found.get("Contents", ()))))

    def owner(self) -> str | None:
        """See `Store.owner`."""
        try:
            with self.open(MARKER) as found:
                return b"".join(found.chunks()).decode("utf-8", "replace").strip()
        except AssetMissingError:
            return None
        except AssetUnreadableError as error:
            raise RemoteError(str(error)) from error

    def mark(self, archive_id: str) -> None:
        """See `Store.mark`; the bucket must be there."""
        self._reach()
        owner = self.owner()
        if owner not in (None, archive_id):
            raise StoreMismatchError(f"{self._name} belongs to archive {owner} already: choose another prefix.")
        if owner is None:
            with self._errors():
                body = f"{archive_id}\n".encode()
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + MARKER, Body=body)

    def receive(self, key: str, chunks: Iterable[bytes | memoryview], *, replace: bool = False) -> Piece:
        """See `Store.receive`; the object has its name as soon as it is whole."""
        self._check_key(key)
        if not replace:
            with suppress(AssetMissingError):
                self.find(key)
                raise _taken(key)
        upload = _Upload(self._client, self._bucket, self._prefix + key, replace=replace)
        hashed, size = sha256(), 0
        try:
            for chunk in chunks:
                hashed.update(chunk)
                size += len(chunk)
                with self._errors():
                    upload.add(chunk)
            with self._errors():
                taken = upload.complete()
        except BaseException:
            upload.abort()
            raise
        if taken:
            raise _taken(key)
        return Piece(key, Stored(size, hashed.hexdigest()))

    def place(self, _pieces: Sequence[Piece]) -> list[Piece]:
        """See `Store.place`; there is nothing left to do."""
        return []

    def find(self, key: str) -> Entry:
        """See `Store.find`."""
        self._check_key(key)
        answer = self._request("HEAD", key)
        answer.finish()
        return Entry(key, self._length(key, answer))

    def _length(self, key: str, answer: Answer) -> int:
        length = length_of(answer.headers)
        if length is None:
            answer.close()
            raise AssetUnreadableError(f"{self._name} does not say how long {key} is: nothing could tell it whole.")
        return length

    def open(self, key: str) -> OpenAsset:
        """See `Store.open`; an object that changes while it is read is unreadable."""
        return self.ask(key).open()

    def ask(self, key: str) -> Opening:
        """See `Store.ask`."""
        if key != MARKER:
            self._check_key(key)
        asked = self._ask("GET", key)
        return Opening(partial(self._open, key, asked), asked.close)

    def _open(self, key: str, asked: Asked) -> OpenAsset:
        answer = self._answer(key, asked)
        length, tag = self._length(key, answer), answer.headers.get("etag")

        def ask(offset: int) -> Answer:
            if tag is None and offset == 0:
                return self._request("GET", key)
            if tag is None:
                raise AssetUnreadableError(f"{key} broke off, and without an ETag nothing could tell it unchanged.")
            rest = self._request("GET", key, **{"Range": f"bytes={offset}-", "If-Match": tag})
            if offset and rest.status != 206:
                rest.close()
                raise AssetUnreadableError(f"{key} broke off, and {self._name} cannot go on in the middle of it.")
            if rest.headers.get("etag", tag) != tag:  # a service that does not know If-Match
                rest.close()
                raise AssetUnreadableError(f"{key} changed in {self._name} while it was read: fetch it again.")
            return rest

        file = Body(key, answer, length, ask)
        return OpenAsset(key, file, length, _claims(answer))  # type: ignore[arg-type]

    def list(self) -> Iterator[Entry]:
        """See `Store.list`; names that are no asset keys are left out."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        with self._errors():
            for page in pages:
                for found in page.get("Contents", ()):
                    if not {"Key", "Size"} <= found.keys():
                        raise RemoteError(f"{self._name} lists something without a name or size: mend the endpoint.")
                    key = found["Key"].removeprefix(self._prefix)
                    with suppress(AssetKeyError):
                        self._check_key(key)
                        yield Entry(key, found["Size"])

    def sync(self, _keys: Sequence[str]) -> None:
        """See `Store.sync`; that is the service's promise."""

    def sweep(self) -> int:
        """See `Store.sweep`; an upload that was cut off has no name, and others may be uploading below the prefix."""
        return 0

    def _check_key(self, key: str) -> None:
        check_asset_key(key)
        if key.partition("/")[0] == MARKER:
            raise AssetKeyError(f"The asset key {key!r} is a name that the store keeps for itself.")


class _Upload:
    """An object on its way into a bucket: in one request if it is small, otherwise in parts."""

    def __init__(self, client: Any, bucket: str, key: str, *, replace: bool) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._condition = {} if replace else {"IfNoneMatch": "*"}
        self._buffer = bytearray()
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def add(self, chunk: bytes | memoryview) -> None:
        self._buffer += chunk
        if len(self._buffer) >= PART_BYTES:
            if self._id is None:
                self._id = self._client.create_multipart_upload(**self._place, ContentType="application/pdf")[
                    "UploadId"
                ]
            self._send()

    def _send(self) -> None:
        number = len(self._parts) + 1
        sent = self._client.upload_part(**self._place, UploadId=self._id, PartNumber=number, Body=bytes(self._buffer))
        self._parts.append({"ETag": sent["ETag"], "PartNumber": number})
        self._buffer.clear()

    def complete(self) -> bool:
        """Give the object its name, and say whether the name was taken."""
        try:
            try:
                self._finish(self._condition)
            except ClientError as error:
                if not self._condition or error.response["Error"]["Code"] not in ("NotImplemented", "501"):
                    raise
                self._finish({})  # a service without conditional writes
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                self.abort()
                return True
            raise
        return False

    def _finish(self, condition: dict[str, str]) -> None:
        if self._id is None:
            self._client.put_object(**self._place, **condition, Body=bytes(self._buffer), ContentType="application/pdf")
            return
        if self._buffer:
            self._send()
        self._client.complete_multipart_upload(
            **self._place, **condition, UploadId=self._id, MultipartUpload={"Parts": self._parts}
        )

    def abort(self) -> None:
        if self._id is not None:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._place, UploadId=self._id)


def _taken(key: str) -> AssetExistsError:
    return AssetExistsError(f"{key} is stored already, and nothing is overwritten: look at both copies.")


def _claims(answer: Answer) -> Claims:
    """Read what an answer says of the digests of the whole object.

    An ETag is an MD5 only of an object that came in one part and was not encrypted with a key of its own.
    """
    tag = _MD5.fullmatch(answer.headers.get("etag", ""))
    encrypted = any(name in answer.headers for name in _ENCRYPTED)
    md5 = tag[1] if tag and not encrypted and answer.headers.get("x-amz-server-side-encryption") != "aws:kms" else None
    checksum = None
    with suppress(ValueError):  # that of several parts is no digest of the whole, and has a number at its end
        checksum = base64.b64decode(answer.headers.get("x-amz-checksum-sha256", ""), validate=True).hex() or None
    if answer.headers.get("x-amz-checksum-type") == "COMPOSITE":
        checksum = None
    return Claims(md5, checksum)


def _advice(name: str, code: str, region: str | None) -> str:
    if region is not None and code in (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "301",
        "400",
        "HTTP 301",
        "HTTP 400",
    ):
        return f"{name} is in another region: add --region {region}."
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AccessDenied", "403"):
        return f"{name} refuses the credentials ({code}): check AWS_ACCESS_KEY_ID and its companions, and their rights."
    if code == "RequestTimeTooSkewed":
        return f"{name} says that this machine's clock is wrong: set it."
    return f"{name} kept failing ({code}): try again later."
