"""The destination of an export, as a person writes it, and the options of an export."""

import shutil
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from craftkit_archive.archive import Archive
from craftkit_archive.errors import AssetKeyError, RequestError, disk_errors
from craftkit_archive.export.index import Volume
from craftkit_archive.export.names import DEFAULT_NAME, safe_part
from craftkit_archive.export.targets import FolderTarget, PackedTarget, StoreTarget, Target
from craftkit_archive.records import one_of
from craftkit_archive.stores.address import open_store, split_object
from craftkit_archive.values import check_asset_key, format_size, valid_text

ExportForm = Literal["dir", "zip", "tar", "bagit"]
DestinationKind = Literal["dir", "zip", "tar", "store"]
STDOUT = "-"
LEAST_SPLIT = 1 << 20
_PACKED: dict[str, DestinationKind] = {".zip": "zip", ".tar": "tar"}


class Options(NamedTuple):
    """How an export is made.

    Attributes:
        form: The form; a bag is packed if the destination ends in .zip or .tar. None chooses it by the suffix.
        name: Template of the PDFs' names; see `NamePlan`.
        link: Whether a folder gets hard links to the store's files instead of copies.
        verify_links: Whether linked files are read and compared all the same.
        prune: Whether files of earlier exports that are no longer selected are removed from a folder.
        split_bytes: The largest size of a volume in bytes; None makes a single file or folder.
        bag_info: Further labels and values for bag-info.txt.
        sync: Whether everything is flushed to the disk before the end.
        sign_with: The SSH key that signs the seal; None leaves it unsigned.
        authority: The URL of the RFC 3161 authority that timestamps the seal; None leaves it without a timestamp.
    """

    form: ExportForm | None = None
    name: str = DEFAULT_NAME
    link: bool = False
    verify_links: bool = False
    prune: bool = False
    split_bytes: int | None = None
    bag_info: tuple[tuple[str, str], ...] = ()
    sync: bool = False
    sign_with: Path | None = None
    authority: str | None = None


class Destination(NamedTuple):
    """Where an export goes, and its form there: a folder, zip, tar or store, as a bag or not.

    A zip or tar may be in a bucket: then the address is that of an object, followed by the service's options.
    """

    address: str
    kind: DestinationKind
    bag: bool

    @property
    def in_bucket(self) -> bool:
        """Whether it is in a bucket."""
        return "://" in self.address

    @property
    def store(self) -> str | None:
        """The address of the bucket and prefix that it is in; None on a disk."""
        if self.kind != "store":
            return split_object(self.address)[0] if self.in_bucket else None
        return self.address

    def named(self, volume: Volume | None) -> str:
        """Return the address of a volume; None is an export without volumes."""
        if volume is None:
            return self.address
        place, mark, service = self.address.partition("?") if self.in_bucket else (self.address, "", "")
        folder, slash, name = place.rstrip("/").rpartition("/")
        file = PurePosixPath(name)
        stem, suffix = (file.stem, file.suffix) if self.kind in ("zip", "tar") else (name, "")
        place = f"{folder}{slash}{stem}-{volume.number:03}{suffix}"
        return f"{place}{mark}{service}"

    def prefix(self, address: str) -> str:
        """Return the folder, with its slash, around everything in a packed bag (RFC 8493, 4.2); else empty."""
        if not self.bag:
            return ""
        return f"{safe_part(PurePosixPath(self.file_name(address)).stem, 100)}/"

    def file_name(self, address: str) -> str:
        """Return the name of the file or object at an address."""
        return split_object(address)[1] if self.in_bucket else Path(address).name

    def open(self, archive: Archive, options: Options, volume: Volume | None) -> Target:
        """Return the target of a volume, without writing anything yet.

        Raises:
            RequestError: Something else is there.
        """
        address = self.named(volume)
        if self.kind == "dir":
            read = not options.link or options.verify_links
            return FolderTarget(archive, Path(address), bag=self.bag, link=options.link, read=read)
        if self.kind == "store":
            return StoreTarget(archive, open_store(address), bag=self.bag)
        path = None if address == STDOUT else Path(address)
        return PackedTarget(archive, path, self.kind, prefix=self.prefix(address))

    def room(self) -> int | None:
        """Return how many bytes are free at the destination; None if unknown."""
        if self.address == STDOUT or self.in_bucket:
            return None
        folder = Path(self.address).absolute()
        with disk_errors(folder):
            while not folder.exists():
                folder = folder.parent
            return shutil.disk_usage(folder).free


def read_destination(address: str, options: Options) -> Destination:
    """Parse a destination as a person writes it, and check that the options fit it.

    Raises:
        RequestError: They do not.
    """
    if not address:
        raise RequestError("DEST is empty. Name a folder, a .zip or a .tar, or - for standard output.")
    if options.form is not None:
        one_of("form", options.form, ExportForm)
    kind: DestinationKind = "dir"
    if "://" in address:
        kind = _kind_in_bucket(address, options)
    elif options.form != "dir":
        kind = options.form if options.form in ("zip", "tar") else _PACKED.get(Path(address).suffix.lower(), "dir")
    if address == STDOUT and options.form not in ("zip", "tar"):
        raise RequestError("Standard output takes a zip or a tar. Add --format zip or --format tar.")
    wrong = [
        (options.link and kind != "dir", "--link makes hard links, which only a folder can have"),
        (options.verify_links and not options.link, "--verify-links goes with --link"),
        (options.prune and kind != "dir", "--prune removes files from a folder, and only there"),
        (options.split_bytes is not None and address == STDOUT, "--split-size makes several files, not one stream"),
        ((options.split_bytes or LEAST_SPLIT) < LEAST_SPLIT, "--split-size is less than 1 MiB"),
        (bool(options.bag_info) and options.form != "bagit", "--bag-info goes with --format bagit"),
    ]
    for holds, problem in wrong:
        if holds:
            raise RequestError(f"{problem}. Correct that, or leave it out.")
    return Destination(address, kind, options.form == "bagit")


def _kind_in_bucket(address: str, options: Options) -> DestinationKind:
    """Return the form of an export to a bucket: an object for each PDF, or, split into volumes, zips or tars.

    Raises:
        RequestError: It would be a single zip or tar, the service takes no volumes, or the volumes are too large.
    """
    suffix = PurePosixPath(split_object(address)[1]).suffix.lower()
    kind = options.form if options.form in ("zip", "tar") else _PACKED.get(suffix)
    if options.split_bytes is None or options.form == "dir" or kind is None:
        if options.form in ("zip", "tar"):
            raise RequestError(
                f"A bucket takes a {options.form} only in volumes. Add --split-size, or export to a file and copy it."
            )
        return "store"
    store, name = split_object(address)
    if not address.startswith("s3://") or not name or store == "s3:/":
        raise RequestError(
            f"Volumes are written to S3 buckets, as objects. Name one, such as s3://bucket/prefix/export.{kind}."
        )
    try:
        check_asset_key(name)
    except AssetKeyError as error:
        raise RequestError(f"{valid_text(name)} cannot be the name of an object. Choose another.") from error
    from craftkit_archive.stores.bucket import MOST_OBJECT_BYTES

    if options.split_bytes > MOST_OBJECT_BYTES:
        raise RequestError(
            f"--split-size is more than an object in a bucket can have, {format_size(MOST_OBJECT_BYTES)}."
            " Give a smaller one."
        )
    return kind
