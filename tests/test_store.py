"""What every store does, and what the folder store does besides."""

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from craftkit_archive.errors import (
    AssetDamagedError,
    AssetError,
    AssetExistsError,
    AssetKeyError,
    AssetMissingError,
    AssetUnreadableError,
    DiskError,
    NoSpaceError,
    NotWritableError,
    RequestError,
    StoreMismatchError,
    StoreOfflineError,
)
from craftkit_archive.sources.address import open_source
from craftkit_archive.sources.store import StoreSource
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import BUFFER_BYTES, MARKER, Entry, Store, digest
from craftkit_archive.stores.bucket import BucketStore
from craftkit_archive.stores.folder import INCOMING, FolderStore
from craftkit_archive.values import check_asset_key, escape_name
from tests.services import BUCKET, s3_client

MakeStore = Callable[[str], Store]
STORES = ["folder", "moto"]

# Keys as a bucket may hold them; a part is at most as long as a file name may be.
PARTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=60
).filter(lambda part: part not in (".", ".."))
KEYS = (
    st.lists(PARTS, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda key: key[1:2] != ":" and key.split("/")[0] not in (MARKER, INCOMING) and len(key.encode()) < 1000)
)
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Return what makes an empty store of each kind, by a name."""
    if request.param == "folder":
        return lambda name: FolderStore(tmp_path / name)
    url, own = request.getfixturevalue(request.param), token_hex(8)
    return lambda name: BucketStore(f"s3://{BUCKET}/{own}/{name}?endpoint_url={url}")


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """Return an empty store of each kind that is marked as archive `a`'s."""
    store = make_store("store")
    store.mark("a")
    return store


def read(store: Store, key: str) -> bytes:
    with store.open(key) as found:
        return b"".join(found.chunks())


# --- every store -----------------------------------------------------------------------------------------------------


@FAST
@given(key=KEYS, chunks=st.lists(st.binary(max_size=300), max_size=5))
def test_a_store_gives_back_what_it_was_given(make_store: MakeStore, key: str, chunks: list[bytes]) -> None:
    store = make_store(token_hex(8))
    whole = b"".join(chunks)
    stored = store.write(key, chunks)
    assert stored == (len(whole), sha256(whole).hexdigest())
    with store.open(key) as found:
        assert (found.size_bytes, b"".join(found.chunks())) == (len(whole), whole)
    assert list(store.list()) == [Entry(key, len(whole))]


def test_a_large_asset_comes_in_pieces_and_whole(store: Store) -> None:
    body = os.urandom(3 * (1 << 20) + 17)
    store.write("large", [body[:100], body[100:]])
    with store.open("large") as found:
        pieces = list(found.chunks())
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 1 << 20
    assert digest(pieces) == (len(body), sha256(body).hexdigest())


@pytest.mark.parametrize("size", [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES, 1 << 20])
def test_measuring_is_reading_and_hashing(store: Store, size: int) -> None:
    body = os.urandom(size)
    store.write("a/b.pdf", [body])
    store.write("other.pdf", [os.urandom(3 * BUFFER_BYTES)])
    assert store.measure("other.pdf").size_bytes == 3 * BUFFER_BYTES
    assert store.measure("a/b.pdf") == (size, sha256(body).hexdigest()), "nothing is left of what was read before"


def test_what_cannot_be_opened_cannot_be_measured(store: Store) -> None:
    for key, error in (("nothing.pdf", AssetMissingError), ("../x", AssetKeyError)):
        with pytest.raises(error):
            store.measure(key)


@pytest.mark.long
@FAST
@given(keys=st.sets(KEYS, min_size=1, max_size=6))
def test_the_keys_are_those_of_the_list(make_store: MakeStore, keys: set[str]) -> None:
    store = make_store(token_hex(8))
    for key in keys:
        with suppress(AssetError, DiskError):  # one key may be a folder of another
            store.write(key, [b"x"])
    assert list(store.keys()) == [entry.key for entry in store.list()]


def test_a_relative_path_means_another_folder_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "store").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        for opened in (open_store("store"), open_store("store", Path())):
            assert opened.address == str(tmp_path / name / "store")
        found = open_source("store")
        assert isinstance(found, StoreSource)
        assert found.address == str(tmp_path / name / "store")


def test_nothing_is_overwritten(store: Store) -> None:
    store.write("a/b.pdf", [b"old"])
    with pytest.raises(AssetExistsError):
        store.write("a/b.pdf", [b"new"])
    assert read(store, "a/b.pdf") == b"old"


def test_a_write_that_fails_leaves_nothing(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        store.write("a.pdf", broken())
    with pytest.raises(AssetMissingError):
        store.open("a.pdf")
    assert list(store.list()) == []
    store.write("a.pdf", [b"whole"])
    assert read(store, "a.pdf") == b"whole"


def test_a_replacement_that_fails_leaves_what_was_there(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the source broke")

    store.write("a.pdf", [b"old"])
    with pytest.raises(RuntimeError):
        store.write("a.pdf", broken(), replace=True)
    assert read(store, "a.pdf") == b"old"


@pytest.mark.parametrize("key", ["nothing.pdf", "no/such/folder/x.pdf", "a.pdf/below-a-file"])
def test_what_is_not_there_is_missing(store: Store, key: str) -> None:
    store.write("a.pdf", [b"x"])
    with pytest.raises(AssetMissingError):
        store.open(key)


BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    ".",
    "a\\b",
    "C:/a",
    "a\0b",
    "a\nb",
    "\ud800",
    "x" * 1025,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_leaves_the_store_is_refused(store: Store, key: str) -> None:
    with pytest.raises(AssetKeyError):
        store.write(key, [b"x"])
    with pytest.raises(AssetKeyError):
        store.open(key)


def test_the_listing_is_in_the_order_of_the_keys_bytes(store: Store) -> None:
    keys = ["b/2", "a", "b/1", "b/c/3", "z", "b-c/1", "b.c/1", "b0", "é/1", "B/1"]
    for key in keys:
        store.write(key, [key.encode()])
    assert list(store.list()) == [Entry(key, len(key.encode())) for key in sorted(keys, key=str.encode)]


def test_nothing_is_drawn_for_a_key_that_is_taken(store: Store) -> None:
    store.write("a", [b"x"])
    drawn = iter([b"new"])
    with pytest.raises(AssetExistsError):
        store.write("a", drawn)
    assert list(drawn) == [b"new"]


@pytest.mark.parametrize("size", [0, 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 1])
def test_an_asset_is_the_same_however_it_is_read(store: Store, size: int) -> None:
    body = os.urandom(size)
    store.write("a.pdf", [body])
    with store.open("a.pdf") as found:
        assert b"".join(found.chunks()) == body
    with store.open("a.pdf") as found:
        assert b"".join(bytes(view) for view in found.views()) == body
    with store.open("a.pdf") as last, store.open("a.pdf") as found:
        assert [b"".join(found.chunks()), b"".join(last.chunks())] == [body, body]


def test_a_key_that_is_taken_in_the_meantime_is_not_overwritten(store: Store, make_store: MakeStore) -> None:
    def slow() -> Iterator[bytes]:
        yield b"late"
        make_store("store").write("a", [b"first"])

    with pytest.raises(AssetExistsError):
        store.write("a", slow())
    assert read(store, "a") == b"first"


def test_what_others_put_there_can_be_made_to_last(store: Store) -> None:
    store.write("a/b", [b"x"])
    store.sync(["a/b"])
    assert read(store, "a/b") == b"x"


def test_a_store_knows_its_archive(store: Store, make_store: MakeStore) -> None:
    store.check()
    store.check("a")
    store.mark("a")
    with pytest.raises(StoreMismatchError):
        store.check("b")
    with pytest.raises(StoreMismatchError):
        store.mark("b")
    elsewhere = make_store("elsewhere")
    with pytest.raises(StoreOfflineError):
        elsewhere.check()
    with pytest.raises(StoreOfflineError):
        elsewhere.check("a")


def test_sweeping_an_orderly_store_changes_nothing(store: Store) -> None:
    store.write("a", [b"x"])
    assert store.remove_stale() == 0
    assert read(store, "a") == b"x"
    store.check("a")


def test_what_is_removed_is_gone_and_nothing_else_is(store: Store) -> None:
    for key in ("a/b.pdf", "a/b.pdf2", "a/c.pdf", "d/e.pdf"):
        store.write(key, [key.encode()])
    assert store.remove("a/b.pdf") is None
    with pytest.raises(AssetMissingError):
        store.find("a/b.pdf")
    assert store.remove("d/e.pdf") is None
    assert store.remove("d/e.pdf") is None, "a call that was interrupted is made again"
    assert store.remove("never/was/there.pdf") is None
    assert [entry.key for entry in store.list()] == ["a/b.pdf2", "a/c.pdf"]
    store.write("d/e.pdf", [b"new"])
    assert read(store, "d/e.pdf") == b"new"
    store.check("a")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_nothing_is_removed_outside_of_the_store(store: Store, key: str) -> None:
    with pytest.raises(AssetKeyError):
        store.remove(key)


def test_every_version_of_an_object_is_removed(moto: str) -> None:
    client = s3_client(moto)
    bucket = f"versions-{token_hex(4)}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = BucketStore(f"s3://{bucket}/p?endpoint_url={moto}")
    for body in (b"one", b"two", b"three"):
        store.write("a.pdf", [body], replace=True)
        store.write("a.pdf2", [body], replace=True)
    client.delete_object(Bucket=bucket, Key="p/a.pdf")
    begun = client.create_multipart_upload(Bucket=bucket, Key="p/a.pdf")
    client.upload_part(Bucket=bucket, Key="p/a.pdf", UploadId=begun["UploadId"], PartNumber=1, Body=b"four")
    assert store.remove("a.pdf") is None
    left = client.list_object_versions(Bucket=bucket)
    assert {found["Key"] for found in left["Versions"]} == {"p/a.pdf2"}
    assert len(left["Versions"]) == 3
    assert "DeleteMarkers" not in left
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


# --- keys ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "C:", "\0", "é"])).map("".join))
def test_a_checked_key_never_escapes(key: str) -> None:
    try:
        check_asset_key(key)
    except AssetKeyError:
        return
    assert os.path.normpath(f"/store/{key}") == f"/store/{key}"


@FAST
@given(KEYS)
def test_good_keys_are_accepted(key: str) -> None:
    assert check_asset_key(key) == key


# --- the folder store ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    """Return an empty folder store."""
    store = FolderStore(tmp_path / "folder")
    store.mark("a")
    return store


def test_a_mirror_of_the_bucket_is_a_store_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mirror/renders/p").mkdir(parents=True)
    (tmp_path / "mirror/renders/p/r.pdf").write_bytes(b"pdf")
    store = FolderStore(tmp_path / "mirror")
    store.check()
    assert list(store.list()) == [Entry("renders/p/r.pdf", 3)]
    assert read(store, "renders/p/r.pdf") == b"pdf"


def test_a_folder_says_which_bytes_it_cannot_remove(folder: FolderStore, tmp_path: Path) -> None:
    root = Path(folder.address)
    folder.write("a.pdf", [b"x"])
    os.link(root / "a.pdf", tmp_path / "export.pdf")
    assert "1 other hard link" in str(folder.remove("a.pdf"))
    assert not (root / "a.pdf").exists()
    folder.write("real.pdf", [b"x"])
    (root / "link.pdf").symlink_to("real.pdf")
    assert "link.pdf led to" in str(folder.remove("link.pdf"))
    assert read(folder, "real.pdf") == b"x"
    (root / "folder.pdf").mkdir()
    assert "is a folder" in str(folder.remove("folder.pdf"))
    assert (root / "folder.pdf").is_dir()


def test_a_folder_that_somebody_else_removed_is_made_anew(folder: FolderStore) -> None:
    """A worker of a cluster keeps a store open for days, while a command on another machine disposes of an asset."""
    folder.write("names/of/persons.pdf", [b"x"])
    assert read(folder, "names/of/persons.pdf") == b"x"
    FolderStore(Path(folder.address)).remove("names/of/persons.pdf")
    assert not Path(folder.address, "names").exists()
    folder.write("names/of/persons.pdf", [b"y"])
    assert read(folder, "names/of/persons.pdf") == b"y"


def test_folders_that_become_empty_go_with_the_last_file(folder: FolderStore) -> None:
    folder.write("names/of/persons.pdf", [b"x"])
    folder.write("names/b.pdf", [b"x"])
    folder.remove("names/of/persons.pdf")
    assert sorted(path.name for path in Path(folder.address).rglob("*")) == [
        MARKER,
        INCOMING,
        "b.pdf",
        "names",
    ]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_leads_out_is_not_followed(folder: FolderStore, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/x.pdf").write_bytes(b"secret")
    root = Path(folder.address)
    if kind == "file":
        (root / "in").mkdir()
        (root / "in/x.pdf").symlink_to(tmp_path / "secret/x.pdf")
    else:
        (root / "in").symlink_to(tmp_path / "secret")
    with pytest.raises((AssetKeyError, AssetDamagedError)):
        folder.open("in/x.pdf")
    if kind == "folder":
        with pytest.raises(AssetKeyError):
            folder.write("in/new.pdf", [b"x"])
        assert not (tmp_path / "secret/new.pdf").exists()


def test_a_link_that_stays_inside_is_followed(folder: FolderStore) -> None:
    folder.write("real.pdf", [b"x"])
    Path(folder.address, "link.pdf").symlink_to("real.pdf")
    assert read(folder, "link.pdf") == b"x"


def test_the_store_keeps_its_own_names_to_itself(folder: FolderStore) -> None:
    for key in (MARKER, f"{INCOMING}/x"):
        with pytest.raises(AssetKeyError):
            folder.write(key, [b"x"], replace=True)


def bind_socket(path: Path) -> None:
    # Through the folder's descriptor: the address of a socket has room for no more than 107 bytes.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name[-40:]}")
        path.with_name(path.name[-40:]).rename(path)
    finally:
        os.close(folder)


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": bind_socket,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link out": lambda path: path.symlink_to("/etc/hosts"),
    "a dangling link out": lambda path: path.symlink_to("/nowhere"),
    "a loop": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to("."),
}


@pytest.mark.parametrize("make", NOT_FILES.values(), ids=list(NOT_FILES))
def test_what_is_not_a_file_is_damage(folder: FolderStore, make: Callable[[Path], None]) -> None:
    make(Path(folder.address, "x.pdf"))
    for read in (folder.open, folder.measure, folder.find):
        with pytest.raises(AssetDamagedError, match="not a file"):
            read("x.pdf")


def test_a_fault_while_reading_is_unreadable(folder: FolderStore) -> None:
    folder.write("a", [b"x"])
    with folder.open("a") as found:
        other = os.open(folder.address, os.O_RDONLY)
        os.dup2(other, found.file.fileno())  # reading a folder fails, as a broken disk would
        os.close(other)
        with pytest.raises(AssetUnreadableError):
            list(found.chunks())


def test_a_killed_writer_leaves_only_what_sweep_removes(folder: FolderStore) -> None:
    left = Path(folder.address, INCOMING)
    left.mkdir(exist_ok=True)
    (left / ("0123" * 8)).write_bytes(b"half a PDF")
    assert list(folder.list()) == []
    assert folder.remove_stale() == 1
    assert not left.exists()


class _FullDisk:
    """A file on a disk that is full, or read-only."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, *_arguments: object, **_names: object) -> object:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, NoSpaceError), (errno.EDQUOT, NoSpaceError), (errno.EROFS, NotWritableError)],
)
def test_a_disk_that_refuses_is_a_clear_error(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    monkeypatch.setattr(os, "fsync", _FullDisk(number))
    with pytest.raises(error, match=r"a\.pdf"):
        folder.write("a.pdf", [b"x"])
    monkeypatch.undo()
    assert list(folder.list()) == []
    assert list(Path(folder.address, INCOMING).iterdir()) == []


def test_a_name_too_long_for_the_disk_is_a_clear_error(folder: FolderStore) -> None:
    for key in ("x" * 300, "y" * 256 + "/x.pdf"):
        with pytest.raises(AssetKeyError, match="too long"):
            folder.write(key, [b"x"])
        with pytest.raises((AssetKeyError, AssetMissingError)):
            folder.open(key)


def test_trouble_with_one_name_leaves_the_others_alone(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file system says only when the name is given, such as ZFS of names that are not UTF-8."""
    pieces = [folder.stage(f"{name}.pdf", [name.encode()]) for name in "abc"]
    for call in ("link", "rename"):
        real = getattr(os, call)

        def refuse(path: str, target: str, real: Callable[[str, str], None] = real) -> None:
            if target.endswith("b.pdf"):
                raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))
            real(path, target)

        monkeypatch.setattr(os, call, refuse)
    refused = folder.commit(pieces)
    assert [(piece.key, type(error)) for piece, error in refused.items()] == [("b.pdf", AssetKeyError)]
    assert list(folder.keys()) == ["a.pdf", "c.pdf"]


def test_a_key_below_another_key_is_refused_by_itself(folder: FolderStore) -> None:
    folder.write("a.pdf", [b"x"])
    with pytest.raises(AssetKeyError, match="in its way"):
        folder.write("a.pdf/b.pdf", [b"x"])


def test_too_few_open_files_say_nothing_of_an_asset(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a.pdf", [b"x"])
    monkeypatch.setattr(os, "open", _FullDisk(errno.EMFILE))
    with pytest.raises(NoSpaceError, match="ulimit -n"):
        folder.open("a.pdf")


def test_names_that_are_no_keys_are_told_escaped(folder: FolderStore) -> None:
    root = os.fsencode(folder.address)
    (Path(folder.address) / "dir").mkdir()
    names = [b"\xff.pdf", b"new\nline", b"back\\slash", b"dir/\xfe\xfd", b"caf\xc3\xa9.pdf"]
    for name in names:
        Path(os.fsdecode(root + b"/" + name)).touch()
    told = list(folder.keys())
    assert sorted(told) == sorted([r"\xff.pdf", r"new\nline", r"back\\slash", r"dir/\xfe\xfd", "caf\u00e9.pdf"])
    assert [entry.key for entry in folder.list()] == ["caf\u00e9.pdf"]


@given(names=st.sets(st.binary(min_size=1, max_size=6), min_size=2))
@example(names={b"\x95", "\x95".encode()})
def test_no_two_names_look_the_same(names: set[bytes]) -> None:
    told = {escape_name(name) for name in names}
    assert len(told) == len(names)
    assert all(text.encode().decode() == text and "\n" not in text for text in told)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_syncfs_each_file_is_flushed(folder: FolderStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Kernel:
        def syncfs(self, _descriptor: int) -> int:
            ctypes.set_errno(number)
            return -1

    synced: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda *_given, **_names: Kernel())
    monkeypatch.setattr(os, "fsync", synced.append)
    assert folder.commit([folder.stage(f"{name}.pdf", [b"x"]) for name in range(10)]) == {}
    assert len(synced) >= 10


def test_strangers_files_among_the_pieces_are_left_alone(folder: FolderStore) -> None:
    left = Path(folder.address, INCOMING)
    left.mkdir(exist_ok=True)
    (left / "letter.txt").write_text("mine")
    assert folder.remove_stale() == 0
    assert (left / "letter.txt").exists()


def test_a_file_is_on_the_disk_before_it_has_its_name(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what is synced: the file, then, with its name in it, the folder; new folders with theirs."""
    root, synced = Path(folder.address), []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((str(path.relative_to(root)) if path != root else "", (root / "n/x.pdf").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder.write("n/x.pdf", [b"x"])
    assert synced[0] == ("", False), "the new folder's name"
    assert synced[1][0].startswith(INCOMING)
    assert not synced[1][1]
    assert synced[2] == ("n", True)


def test_a_link_that_leads_nowhere_is_in_the_way(folder: FolderStore) -> None:
    Path(folder.address, "a").symlink_to("nowhere")
    with pytest.raises(AssetExistsError):
        folder.write("a", [b"x"])


def test_files_get_the_rights_that_the_umask_leaves(folder: FolderStore) -> None:
    before = os.umask(0o027)
    try:
        folder.write("a.pdf", [b"x"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(folder.address, "a.pdf").stat().st_mode) == 0o640


def test_an_address_of_another_kind_is_refused_without_its_password() -> None:
    with pytest.raises(RequestError, match="ftp://host/") as caught:
        open_store("ftp://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_a_file_system_that_gives_fewer_bytes_at_once_is_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, body, real = FolderStore(tmp_path), os.urandom(100_000), os.readv
    store.write("a.pdf", [body])
    monkeypatch.setattr(os, "readv", lambda file, buffers: real(file, [memoryview(buffers[0])[:4096]]))
    assert store.measure("a.pdf") == (len(body), sha256(body).hexdigest())


def test_what_a_file_system_does_to_names_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    assert store.quirks() == ()
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: real(str(path).lower()))
    assert store.quirks() == ("ignores case",)
    assert list(tmp_path.iterdir()) == []
