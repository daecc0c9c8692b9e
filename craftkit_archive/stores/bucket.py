"""The bucket store: a prefix of a bucket at an S3-compatible service, at Google or at Azure.

obstore makes the requests, and retries the failures that it considers temporary. This module adds what services other
than AWS need: retries for refusals that obstore considers final, writes without headers that a service does not know,
and regions that a service names only in a refusal.
"""

import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, UnauthenticatedError

from craftkit_archive.errors import (
    ArchiveError,
    AssetError,
    AssetExistsError,
    AssetKeyError,
    AssetMissingError,
    AssetUnavailableError,
    RemoteError,
    RequestError,
    StoreMismatchError,
    StoreOfflineError,
)
from craftkit_archive.overriding import override
from craftkit_archive.stores import aws
from craftkit_archive.stores.aws import (
    ATTEMPTS,
    OPTIONS,
    RENEWAL_SECONDS,
    BucketAccess,
    Credentials,
    S3Service,
    advice,
    md5_of,
    pauses,
    untrusted,
)
from craftkit_archive.stores.base import (
    MARKER,
    PDF,
    Entry,
    OpenAsset,
    SourceChecksums,
    StagedAsset,
    Store,
    Stored,
    mask_address,
)
from craftkit_archive.stores.refusals import BAD_CREDENTIALS, ODD_LISTS, ServiceRefusal, find_word, printable
from craftkit_archive.values import check_asset_key

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore, RetryConfig


T = TypeVar("T")
SCHEMES = ("s3://", "gs://", "az://")

# Time-outs, in seconds. A request for a small object ends within the first; if it breaks off a large one, reading
# continues from there (see `_Body`).
READ_SECONDS = 30.0
WRITE_SECONDS = 600.0
STALL_SECONDS = 60.0

# An object up to this size is read completely when it is opened, so that eight are on their way at a time; a larger one
# is read in pieces of this size once its stream has broken off.
WHOLE_BYTES = 4 << 20
STREAM_BYTES = 1 << 20

# The size of an upload's parts. S3 accepts at most 10,000 parts, each but the last of at least 5 MiB.
PART_BYTES = 16 << 20
MOST_OBJECT_BYTES = 10_000 * PART_BYTES
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,254}")


def bucket_address(address: str, **options: str | None) -> str:
    """Put the options of a service into the address of a bucket, which then needs no other settings.

    Args:
        address: `s3://bucket/prefix`, which may have options already.
        options: `endpoint_url`, `region`, `profile` and `no_sign_request`; None where nothing is given.

    Raises:
        RequestError: The address is not of an S3 bucket, and an option is given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return address
    if not address.startswith("s3://"):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RequestError(f"{mask_address(address)} is not an S3 bucket. Leave {names} out.")
    bare, _, query = address.partition("?")
    return f"{bare}?{urlencode(dict(parse_qsl(query)) | given)}"


def learned_access(stores: Iterable["BucketStore"]) -> dict[str, BucketAccess]:
    """Return how to reach those of the stores that are S3 buckets, for `learn_access` in another process.

    Resolving the AWS settings takes botocore a third of a second, which a worker need not spend again. The result holds
    credentials and must not leave this machine.

    Raises:
        RequestError, RemoteError: The settings are contradictory, or there are no credentials.
    """
    return {store.service: store.access for store in stores if store.service}


def learn_access(known: Mapping[str, BucketAccess]) -> None:
    """Remember how to reach buckets, as another process has resolved it."""
    _known.update(known)


_known: dict[str, BucketAccess] = {}


class BucketStore(Store):
    """A store in a bucket, below a prefix. Credentials come from the environment or the service's usual files.

    Args:
        address: `s3://bucket/prefix`, optionally with `?endpoint_url=…&region=…&profile=…&no_sign_request=…`;
            `gs://bucket/prefix`; `az://container/prefix`.

    Attributes:
        service: The address of the bucket without its prefix, which identifies bucket and service; empty unless S3.

    Raises:
        RequestError: The address is not valid.
    """

    lanes = 8

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        bare, _, query = rest.partition("?")
        self._bucket, _, prefix = bare.partition("/")
        options = dict(parse_qsl(query))
        if not _BUCKET.fullmatch(self._bucket) or (options and scheme != "s3"):
            raise RequestError(f"{mask_address(address)} does not name a bucket. Write {scheme}://bucket/prefix.")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._name = f"{scheme}://{self._bucket}/{self._prefix}".rstrip("/")
        self.address = bucket_address(self._name, **options) if options else self._name
        self._scheme = scheme
        self._endpoint = options.get("endpoint_url")
        self._stores: dict[bool, ObjectStore] = {}
        self._lock = Lock()
        # A header that the service has refused once is not sent again.
        self._optional = _OptionalHeaders()
        self.service = ""
        self._aws = None
        if scheme == "s3":
            if set(options) - set(OPTIONS):
                raise RequestError(f"{mask_address(address)} has an unknown option. Those of a bucket are {OPTIONS}.")
            _check_endpoint(self._endpoint)
            self.service = bucket_address(f"s3://{self._bucket}", **options)
            self._aws = S3Service(self._bucket, options, _known.get(self.service))

    @property
    def access(self) -> BucketAccess:
        """How to reach an S3 bucket.

        Raises:
            RequestError: It is not an S3 bucket, or the settings are contradictory.
            RemoteError: There are no credentials.
        """
        if self._aws is None:
            raise RequestError(f"{self._name} is not an S3 bucket.")
        return self._aws.access

    # --- the service

    def _object_store(self, *, writing: bool) -> "ObjectStore":
        with self._lock:
            if writing not in self._stores:
                self._stores[writing] = self._connect(writing=writing)
            return self._stores[writing]

    def _connect(self, *, writing: bool) -> "ObjectStore":
        from obstore.store import S3Store, from_url

        seconds = WRITE_SECONDS if writing else READ_SECONDS
        client: dict[str, Any] = {
            "allow_http": True,  # an address that says http:// means it
            "connect_timeout": timedelta(seconds=min(10.0, seconds)),
            "timeout": timedelta(seconds=seconds),
            "read_timeout": timedelta(seconds=min(STALL_SECONDS, seconds)),
        }
        retry: RetryConfig = {
            "max_retries": ATTEMPTS - 1,
            "retry_timeout": timedelta(seconds=6 * seconds),
            "backoff": {
                "init_backoff": timedelta(seconds=aws.PAUSE_SECONDS),
                "max_backoff": timedelta(seconds=aws.MAX_PAUSE_SECONDS),
                "base": 2,
            },
        }
        if self._aws is None:
            url = f"{self._scheme}://{self._bucket}"
            return from_url(url, client_options=client, retry_config=retry)  # type: ignore[call-overload, no-any-return]
        access = self._aws.access
        if access.ca_bundle is not None:
            try:
                client["root_certificate"] = Path(access.ca_bundle).read_bytes()
            except OSError as error:
                raise RequestError(f"Cannot read the certificates in {access.ca_bundle} ({error.strerror}).") from error
        given: dict[str, Any] = {
            # Both, because obstore prefers AWS_ENDPOINT_URL_S3 of the environment to the first alone.
            "endpoint": access.endpoint,
            "aws_endpoint_url_s3": access.endpoint,
            "virtual_hosted_style_request": access.virtual_hosted,
            "region": access.region,
            "conditional_put": "etag",
        }
        if writing and self._optional.checksum:
            given["checksum_algorithm"] = "SHA256"
        if access.credentials is None:
            given["skip_signature"] = True
        else:
            given["credential_provider"] = _Provider(self._aws.renew, access)
        return S3Store(self._bucket, client_options=client, retry_config=retry, **given)  # type: ignore[arg-type]

    def _call(self, key: str, work: "Callable[[ObjectStore], T]", *, writing: bool = False, once: bool = False) -> T:
        """Make a request; follow a redirection to another region, and retry what may succeed later.

        Args:
            key: The object that it is about.
            work: Makes the request.
            writing: Whether it writes.
            once: Whether it cannot be repeated, because it uses up what it sends.

        Raises:
            AssetMissingError, AssetKeyError, AssetUnavailableError: The failure concerns this key alone.
            RemoteError, StoreOfflineError: It concerns the whole bucket.
        """
        began = time.monotonic()
        for pause in pauses():
            try:
                return work(self._object_store(writing=writing))
            except (BaseError, FileNotFoundError) as error:
                refusal, failure = ServiceRefusal.of(error), error
            except ValueError as error:
                raise AssetKeyError(f"{key} cannot be a name in {self._name} ({error}).") from error
            if refusal.moved and self._aws is not None and self._aws.move(refusal.region):
                with self._lock:
                    self._stores.clear()
                continue
            spent = refusal.exhausted or time.monotonic() - began > ATTEMPTS * READ_SECONDS
            if pause is None or once or spent or not refusal.heals or isinstance(failure, UnauthenticatedError):
                raise self._explain(key, refusal, failure) from failure
            time.sleep(pause)
        raise AssertionError  # the last pause is None

    def _explain(self, key: str, refusal: ServiceRefusal, error: BaseException) -> ArchiveError:
        """Map a refusal to one of our errors."""
        where = self._endpoint or f"the service of {self._name}"
        if isinstance(error, UnauthenticatedError) and refusal.status is None:
            said = printable(find_word(r"provider: (?:\w*Error: )?(.*)", str(error)) or refusal.code)
            return RemoteError(said if self._name in said else f"Cannot get credentials for {self._name} ({said}).")
        if refusal.untrusted:
            return RemoteError(untrusted(where))
        if refusal.unreachable:
            return StoreOfflineError(f"Cannot reach {where} for {self._name}. Check the network and --endpoint-url.")
        if refusal.code in ("NoSuchBucket", "ContainerNotFound"):
            return StoreOfflineError(f"There is no bucket {self._bucket}. Check the bucket name and --endpoint-url.")
        if isinstance(error, FileNotFoundError):
            return AssetMissingError(f"{key} is not in {self._name}.")
        if refusal.code == "InvalidObjectState":
            return AssetUnavailableError(
                f"{key} is in an archive class of {self._name} (GLACIER or DEEP_ARCHIVE). "
                "Restore it first, such as with `aws s3api restore-object`, then run the command again."
            )
        if refusal.status == 412:
            return _changed(key, self._name)
        if "Content-Length" in refusal.code:
            return AssetUnavailableError(
                f"{self._name} does not say how long {key} is, so no copy can be proved whole."
            )
        if refusal.status in (401, 403) and refusal.code not in BAD_CREDENTIALS:
            return AssetUnavailableError(
                f"{self._name} refuses {key} ({refusal}). Check the rights of these credentials.", reason=str(refusal)
            )
        said = "kept failing" if refusal.heals else "refused"
        return RemoteError(
            f"{self._name} {said} ({refusal}). {advice(refusal.code)}",
            reason=str(refusal),
            status=refusal.status or 0,
        )

    # --- the store

    @override
    def check(self, archive_id: str | None = None) -> None:
        """Counts a prefix with no objects below it as missing."""
        if not self._reach():
            raise StoreOfflineError(f"There is nothing below {self._name}. Check the bucket name and the prefix.")
        if archive_id is None:
            return
        owner = self.owner()
        if owner is None:
            raise StoreOfflineError(f"{self._name} has no object {MARKER}. Check the bucket name and the prefix.")
        if owner != archive_id:
            raise StoreMismatchError(f"{self._name} belongs to archive {owner}, not to {archive_id}. Check the prefix.")

    def _reach(self) -> bool:
        """Return whether there is any object below the prefix.

        If the credentials may read objects but not list them, the answer is yes.

        Raises:
            StoreOfflineError, RemoteError: The bucket does not exist, or cannot be reached.
        """

        def first(store: "ObjectStore") -> bool:
            try:
                return any(obstore.list(store, self._prefix or None, chunk_size=1))
            except BaseError as error:
                if any(words in str(error) for words in ODD_LISTS):
                    return True
                raise

        try:
            return self._call("", first)
        except (AssetUnavailableError, AssetKeyError):
            return True
        except AssetMissingError as error:
            raise StoreOfflineError(f"There is no {self._name}. Check the bucket name and the service.") from error

    @override
    def contains(self, address: str) -> bool:
        if not address.startswith(f"{self._scheme}://"):
            return False
        other = BucketStore(address)
        same = (other._bucket, other._endpoint) == (self._bucket, self._endpoint)
        return same and other._prefix.startswith(self._prefix)

    @override
    def owner(self) -> str | None:
        try:
            with self.open(MARKER) as found:
                return b"".join(found.chunks()).decode("utf-8", "replace").strip()
        except AssetMissingError:
            return None
        except AssetUnavailableError as error:
            raise RemoteError(str(error)) from error

    @override
    def mark(self, archive_id: str) -> None:
        """Does not create the bucket, which must exist."""
        self._reach()
        owner = self.owner()
        if owner not in (None, archive_id):
            raise StoreMismatchError(
                f"{self._name} belongs to archive {owner} already. Choose another prefix; if the catalog of that"
                " archive is lost, run `craftkit-archive restore` or `craftkit-archive rebuild` instead."
            )
        if owner is None:
            self._put(MARKER, f"{archive_id}\n".encode(), replace=False)

    @override
    def check_writable(self) -> None:
        """Writes the marker again on condition that it is missing: without the right to write, the error is another.

        Without a marker there is nothing that can be written without a trace, so the check only connects.
        """
        self._reach()
        owner = self.owner()
        if owner is not None:
            with suppress(AssetExistsError):
                self._put(MARKER, f"{owner}\n".encode(), replace=False)

    @override
    def stage(
        self, key: str, chunks: Iterable[bytes | memoryview], *, replace: bool = False, media_type: str = PDF
    ) -> StagedAsset:
        """Gives the object its name as soon as the upload is complete."""
        self._check_key(key)
        if not replace:
            with suppress(AssetMissingError):
                self.find(key)
                raise _taken(key)
        source = _Source(chunks)
        first = source.read(PART_BYTES)
        if len(first) < PART_BYTES:
            self._put(key, first, replace=replace, media_type=media_type)
        else:
            self._put_parts(key, source.unread(first), replace=replace, media_type=media_type)
        return StagedAsset(key, source.stored())

    def _put(self, key: str, body: bytes, *, replace: bool, media_type: str = PDF) -> None:
        """Write a small object in one request.

        If the answer is lost, or says that the name is taken, the object there may be our own from an earlier attempt:
        it is read back and compared before the write counts as failed.
        """
        mine = Stored(len(body), sha256(body).hexdigest())
        while True:
            optional = self._optional
            mode: Literal["create", "overwrite"] = "create" if optional.condition and not replace else "overwrite"
            put = partial(self._put_once, key, body, mode=mode, media_type=media_type)
            try:
                self._call(key, put, writing=True)
            except (AssetExistsError, RemoteError, StoreOfflineError) as error:
                with suppress(ArchiveError):
                    if self.measure(key) == mine:
                        return
                if isinstance(error, RemoteError) and self._give_up_optional(optional, error):
                    continue
                raise
            return

    def _put_once(
        self, key: str, body: bytes, store: "ObjectStore", *, mode: Literal["create", "overwrite"], media_type: str
    ) -> None:
        try:
            obstore.put(
                store,
                self._path(key),
                body,
                mode=mode,
                use_multipart=False,
                attributes={"Content-Type": media_type},
            )
        except AlreadyExistsError as error:
            # A 409 means that another write is in progress, and is retried.
            if ServiceRefusal.of(error).status == 409:
                raise
            raise _taken(key) from error

    def _give_up_optional(self, tried: "_OptionalHeaders", error: RemoteError) -> bool:
        """If the service may have refused an optional header, stop sending it; return whether to try again."""
        if error.status not in (400, 405, 501):
            return False
        with self._lock:
            if self._optional == tried:
                following = tried.fewer()
                if following is None:
                    self._optional = _OptionalHeaders()
                    return False
                self._optional = following
                self._stores.pop(True, None)
        return True

    def _put_parts(self, key: str, source: "_Source", *, replace: bool, media_type: str) -> None:
        """Write a large object in parts."""
        if self._aws is None:
            options: dict[str, Any] = {"use_multipart": True, "chunk_size": PART_BYTES}
            # obstore repeats the upload of a part by itself. A second attempt at all of them would send only what the
            # first had not yet read, under the name of the whole.
            put = partial(obstore.put, path=self._path(key), file=source, **options)
            self._call(key, put, writing=True, once=True)
            return
        written = self._aws.upload(self._prefix + key, source, replace=replace, media_type=media_type)
        if not written and self.measure(key) != source.stored():
            raise _taken(key)

    @override
    def commit(self, _staged: Sequence[StagedAsset]) -> Mapping[StagedAsset, AssetError]:
        """Do nothing: an object has its name as soon as its upload is complete."""
        return {}

    @override
    def find(self, key: str) -> Entry:
        self._check_key(key)
        found = self._call(key, lambda store: obstore.head(store, self._path(key)))
        return Entry(key, found["size"])

    @override
    def open(self, key: str) -> OpenAsset:
        """Reads a small object completely, with the same request."""
        if key != MARKER:
            self._check_key(key)
        return self._call(key, partial(self._open, key))

    def _open(self, key: str, store: "ObjectStore") -> OpenAsset:
        result = obstore.get(store, self._path(key))
        size, tag = result.meta["size"], result.meta["e_tag"]
        if size > WHOLE_BYTES:
            file: io.IOBase = _Body(
                iter(result.stream(STREAM_BYTES)), partial(self._read_piece, key, result.meta), size
            )
        else:
            file = io.BytesIO(result.bytes())
        checksums, closer = SourceChecksums(), None
        if self._aws is not None:
            checksums, closer = SourceChecksums(md5_of(tag)), partial(self._aws.checksums, self._prefix + key)
            if checksums.md5 is None:
                with suppress(RemoteError):
                    checksums, closer = closer(), None
        return OpenAsset(key, file, size, checksums, closer)  # type: ignore[arg-type]

    def _read_piece(self, key: str, meta: "ObjectMeta", start: int) -> bytes:
        """Read one piece of an object, if it is still the same one."""
        options: GetOptions = {"range": (start, min(start + WHOLE_BYTES, meta["size"]))}
        if meta["e_tag"] is not None:
            options["if_match"] = meta["e_tag"]

        def read(store: "ObjectStore") -> bytes:
            result = obstore.get(store, self._path(key), options=options)
            if result.meta != meta:  # a service that does not know If-Match
                raise _changed(key, self._name)
            return bytes(result.bytes())

        return self._call(key, read)

    @override
    def list(self) -> Iterator[Entry]:
        """Leaves out names that are not valid asset keys."""
        for name, size in self._listed():
            key = name.removeprefix(self._prefix)
            with suppress(AssetKeyError):
                self._check_key(key)
                yield Entry(key, size)

    def _listed(self) -> Iterator[tuple[str, int]]:
        if self._aws is not None:
            yield from self._aws.list(self._prefix)
            return
        pages = self._call("", lambda store: obstore.list(store, self._prefix or None))
        while page := self._call("", lambda _: next(pages, None)):
            yield from ((found["path"], found["size"]) for found in page)

    @override
    def sync(self, _keys: Sequence[str]) -> None:
        """Do nothing: the service promises durability for what it has acknowledged."""

    @override
    def remove(self, key: str) -> str | None:
        """Reports the versions that remain because the service refuses to delete them, or does not list them."""
        self._check_key(key)
        if self._aws is not None:
            remains = self._aws.remove(self._prefix + key)
        else:
            with suppress(AssetMissingError):
                self._call(key, lambda store: obstore.delete(store, self._path(key)), writing=True)
            remains = "earlier versions and copies that the service can restore, if the bucket keeps any"
        with suppress(AssetMissingError):
            self.find(key)
            raise RemoteError(
                f"{self._name} still has {key} after it acknowledged its deletion. Run the command again."
            )
        return remains

    @override
    def abort_writes(self, key: str) -> None:
        self._check_key(key)
        if self._aws is not None:
            self._aws.abort_uploads(self._prefix + key)

    @override
    def remove_stale(self) -> int:
        return 0  # an upload that was cut off has no name, and others may be uploading below the prefix

    def _path(self, key: str) -> str:
        return self._prefix + key

    def _check_key(self, key: str) -> None:
        check_asset_key(key)
        if key.partition("/")[0] == MARKER:
            raise AssetKeyError(f"The asset key {key!r} is a name that the store keeps for itself.")


class _OptionalHeaders(NamedTuple):
    """Which headers to send with a write that not every service knows.

    Attributes:
        condition: `If-None-Match: *`, which prevents an object from being replaced.
        checksum: `x-amz-checksum-sha256`, which a bucket with Object Lock requires.
    """

    condition: bool = True
    checksum: bool = True

    def fewer(self) -> "_OptionalHeaders | None":
        """Return the combination to try next; the condition, which protects more, is given up last."""
        return {
            (True, True): _OptionalHeaders(True, False),
            (True, False): _OptionalHeaders(False, True),
            (False, True): _OptionalHeaders(False, False),
        }.get((self.condition, self.checksum))


class _Source:
    """A stream of chunks as a file; its size and digest are known at its end."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks = iter(chunks)
        self._rest = bytearray()
        self._size_bytes = 0
        self._hashed = sha256()

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer only at the end."""
        while len(self._rest) < size and (chunk := next(self._chunks, None)) is not None:
            self._rest += chunk
            self._size_bytes += len(chunk)
            self._hashed.update(chunk)
        found = bytes(self._rest[:size])
        del self._rest[:size]
        return found

    def unread(self, begin: bytes) -> Self:
        """Put back the bytes that were read last."""
        self._rest[:0] = begin
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(PART_BYTES), b"")

    def stored(self) -> Stored:
        """Return the size and digest of what has been read."""
        return Stored(self._size_bytes, self._hashed.hexdigest())


class _Provider:
    """Gives obstore the credentials that were resolved in this or another process, and renews them in time."""

    def __init__(self, renew: Callable[[], Credentials], access: BucketAccess) -> None:
        self._renew = renew
        self._first = access.credentials
        self._renewable = access.renewable

    def __call__(self) -> dict[str, Any]:
        """Return credentials in obstore's form."""
        credentials, self._first = self._first or self._renew(), None
        expiry = datetime.now(UTC) + timedelta(seconds=RENEWAL_SECONDS) if self._renewable else None
        return {**credentials._asdict(), "expires_at": expiry}


class _Body(io.RawIOBase):
    """The bytes of a large object as a file: one stream at first, and pieces by range once the stream has broken off.

    Each piece is retried like a small object, so that an object of many gigabytes arrives over a bad line, and one that
    arrives too slowly is given up. It does not begin with pieces, because a service may hash the whole object for each
    request.

    Raises:
        AssetUnavailableError: From any method that reads: the object changed meanwhile, or kept breaking off.
        RemoteError, StoreOfflineError: From any method that reads: the service could not be asked for the rest.
    """

    def __init__(self, stream: Iterator[bytes], read: Callable[[int], bytes], size_bytes: int) -> None:
        super().__init__()
        self._stream: Iterator[bytes] | None = stream
        self._read = read
        self._size = size_bytes
        self._piece = memoryview(b"")
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: reading on from another position makes another request."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at != self._at:
            self._stream, self._piece, self._at = None, memoryview(b""), at
        return at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and return the number of bytes; 0 only at the end."""
        if not self._piece and self._at < self._size:
            self._piece = memoryview(self._next())
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self._at += count
        return count

    def _next(self) -> bytes:
        if self._stream is not None:
            with suppress(BaseError, StopIteration):
                return next(self._stream)
            self._stream = None
        return self._read(self._at)


def _check_endpoint(url: str | None) -> None:
    if url is None:
        return
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        right = right and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        right = False
    if not right:
        raise RequestError(f"{mask_address(url)} is not a URL. Write --endpoint-url https://host or https://host:port.")
    if "@" in parts.netloc:
        raise RequestError("Credentials do not belong in an address. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")


def _changed(key: str, name: str) -> AssetUnavailableError:
    return AssetUnavailableError(f"{key} changed in {name} while it was read. Run the command again.")


def _taken(key: str) -> AssetExistsError:
    return AssetExistsError(f"{key} is stored already, and nothing is overwritten. Compare the two copies.")
