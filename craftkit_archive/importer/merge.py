"""Decides whether a record is inserted, updated, unchanged or refused, given what the catalog holds already."""

from typing import Any, Literal

import msgspec

from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.imports import COLUMNS
from craftkit_archive.catalog.rows import Expectation
from craftkit_archive.decoding import encode_extra
from craftkit_archive.records import Kind, Refusal
from craftkit_archive.values import default_asset_key

OnDuplicate = Literal["update", "skip", "fail"]
ColumnValues = tuple[Any, ...]  # in the order of COLUMNS
Declared = tuple[int | None, str | None]  # what a render declares about its asset: size in bytes, digest

KEY_HASH = COLUMNS["keys"].index("key_hash")
REVOKED_AT = COLUMNS["keys"].index("revoked_at")
STATUS = COLUMNS["renders"].index("status")
ASSET_KEY = COLUMNS["renders"].index("asset_key")
# The columns that a hold by rule tests, except for the project, which never changes.
HELD_BY = [COLUMNS["renders"].index(name) for name in ("template_id", "created_at")]
UPDATED_AT = COLUMNS["projects"].index("updated_at")

_RANK = {"queued": 0, "rendering": 1}
_FINAL = 2


class Merge:
    """Decides what becomes of each row of a batch, given the catalog and the rows before it.

    Attributes:
        changed: Rows to write, by id.
        expected: What assets should be, by render id.
        aims: Asset keys of renders whose disposal is unfinished, by render id.
        moved: Ids of renders that a hold by rule may no longer cover.
    """

    def __init__(
        self,
        catalog: Catalog,
        kind: Kind,
        entries: list[tuple[int, ColumnValues, Declared | None]],
        on_duplicate: OnDuplicate,
    ) -> None:
        self.changed: dict[str, ColumnValues] = {}
        self.expected: dict[str, Expectation] = {}
        self.aims: dict[str, str] = {}
        self.moved: list[str] = []
        self._kind = kind
        self._on_duplicate = on_duplicate
        ids = [row[0] for _, row, _ in entries]
        later = bool(ids) and min(ids) > catalog.last_id(kind)
        self._known = {} if later else catalog.known(kind, ids)
        self._hash_owners = catalog.key_owners([row[KEY_HASH] for _, row, _ in entries]) if kind == "keys" else {}
        self._entries = entries
        self._folders = _folder_owners(catalog, entries) if kind == "renders" else {}
        declaring = [row for _, row, declared in entries if declared is not None]
        # One query for the whole batch, and none if nothing was ever disposed.
        self._disposed = catalog.disposed(ids) if kind == "renders" and catalog.has_disposed() else frozenset()
        self._declaring = bool(declaring)
        self._assets = {asset.render_id: asset for asset in catalog.expectations([row[0] for row in declaring])}
        self._claims = catalog.claimed_by([row[ASSET_KEY] for row in declaring]) if declaring else {}

    def all_new(self) -> bool:
        """Accept all rows at once, as in a first import, and return True; False if any needs a closer look.

        That is so unless a row is known, repeated, disposed, or declares anything about its asset.
        """
        if self._known or self._declaring or self._folders or self._disposed or self._kind == "keys":
            return False
        rows = {row[0]: row for _, row, _ in self._entries}
        if len(rows) < len(self._entries):
            return False
        self.changed = rows
        return True

    def is_known(self, row: ColumnValues) -> bool:
        """Return whether the catalog has exactly this row, as it has most rows of a second import."""
        return self._known.get(row[0]) == row and self._on_duplicate != "fail"

    def add(self, row: ColumnValues, declared: Declared | None) -> tuple[str, Refusal | None]:
        """Return what becomes of a row: inserted, updated, unchanged or disposed; or an empty text and the refusal."""
        old = self._known.get(row[0])
        reason = self._conflict(old, row)
        if reason is not None:
            return "", reason
        if row[0] in self._disposed:
            # A disposed render gets back only its row, without anything that may identify a person.
            if old is None:
                self._known[row[0]] = self.changed[row[0]] = _scrubbed(row)
            if row[ASSET_KEY] is not None:
                self.aims[row[0]] = row[ASSET_KEY]
            return "disposed", None
        skipped = old is not None and self._on_duplicate == "skip"
        new = row if old is None else old if skipped else _merged(self._kind, old, row)
        news = False
        if declared is not None and not skipped:
            news, reason = self._expect(new, *declared)
            if reason is not None:
                return "", reason
        if new is not old:
            if old is not None and self._kind == "renders" and any(old[at] not in (None, new[at]) for at in HELD_BY):
                self.moved.append(new[0])
            self._known[new[0]] = self.changed[new[0]] = new
        return "inserted" if old is None else "updated" if news or new is not old else "unchanged", None

    def _conflict(self, old: ColumnValues | None, new: ColumnValues) -> Refusal | None:
        if old is not None and self._kind != "projects" and old[1] != new[1]:
            text = f"project_id: expected {old[1]}, the project that this id belongs to already, got {new[1]!r}"
            return Refusal("other-project", text)
        if self._kind == "keys":
            if old is not None and old[KEY_HASH] != new[KEY_HASH]:
                return Refusal(
                    "other-key", "key_hash: expected the one that this id has already; a new key needs a new id"
                )
            owner = self._hash_owners.get(new[KEY_HASH], new[0])
            if owner != new[0]:
                return Refusal("key-of-another", f"key_hash: expected a key of its own, got that of {owner}")
        if self._folders and new[ASSET_KEY] is not None:
            for folder in _folders(new[ASSET_KEY]):
                if self._folders.get(folder, new[0]) != new[0]:
                    text = f"asset_key: expected one that is not below {folder!r}, the PDF of {self._folders[folder]}"
                    return Refusal("below-another-pdf", text)
        if old is not None and self._on_duplicate == "fail":
            return Refusal("known-id", "id: expected a new one, this is there already")
        if self._kind == "keys":
            self._hash_owners[new[KEY_HASH]] = new[0]
        return None

    def _expect(self, row: ColumnValues, size_bytes: int | None, sha256: str | None) -> tuple[bool, Refusal | None]:
        """Expect an asset to have this size and digest; return whether that is new, and the refusal if it conflicts."""
        render_id, key = row[0], row[ASSET_KEY]
        if key is None:
            return False, None
        owner = self._claims.setdefault(key, render_id)
        if owner != render_id:
            return False, Refusal("asset-key-of-another", f"asset_key: expected one of its own, got that of {owner}")
        old = self._assets.get(render_id)
        if old is not None and old.stored:
            if sha256 not in (None, old.sha256):
                text = f"sha256: expected {old.sha256}, which is stored and recorded, got {sha256!r}"
                return False, Refusal("not-as-stored", text)
            if size_bytes not in (None, old.size_bytes):
                text = f"size_bytes: expected {old.size_bytes}, which is stored and recorded, got {size_bytes}"
                return False, Refusal("not-as-stored", text)
            return False, None
        if old is not None:
            size_bytes = old.size_bytes if size_bytes is None else size_bytes
            sha256 = old.sha256 if sha256 is None else sha256
        new = Expectation(render_id, key, size_bytes, sha256, False)
        self._assets[render_id] = self.expected[render_id] = new
        return new != old, None


def _folder_owners(catalog: Catalog, entries: list[tuple[int, ColumnValues, Declared | None]]) -> dict[str, str]:
    """Map the folders of these rows' assets that are PDFs of other renders to those renders: no name can be both."""
    keys = {row[ASSET_KEY]: row[0] for _, row, _ in entries if row[ASSET_KEY] is not None}
    folders = {folder for key in keys for folder in _folders(key)}
    return {key: owner for key, owner in keys.items() if key in folders} | catalog.holders(sorted(folders))


def _folders(key: str) -> list[str]:
    """List the folders that a key is in, except for those that hold projects and renders."""
    if key.startswith("renders/") and key.count("/") == 2:
        return []  # true of nearly all keys, and five times as fast as splitting them
    parts = key.split("/")
    first = 3 if parts[0] == "renders" else 1
    return ["/".join(parts[:count]) for count in range(first, len(parts))]


def _merged(kind: Kind, old: ColumnValues, new: ColumnValues) -> ColumnValues:
    """Merge a row into an older one; where both have a value, the row with the later state wins."""
    if old == new:
        return old
    first, second = (new, old) if _is_older(kind, new, old) else (old, new)
    merged = [was if given is None else given for was, given in zip(first, second, strict=True)]
    if kind == "renders":
        # The default key of a record that named none gives way to a key that a record names.
        supposed = default_asset_key(old[1], old[0])
        named = [row[ASSET_KEY] for row in (first, second) if row[ASSET_KEY] not in (None, supposed)]
        merged[ASSET_KEY] = named[-1] if named else merged[ASSET_KEY]
    if kind == "keys":
        merged[REVOKED_AT] = min(filter(None, (old[REVOKED_AT], new[REVOKED_AT])), default=None)
    if first[-1] is not None and second[-1] is not None:
        merged[-1] = encode_extra(msgspec.json.decode(first[-1]) | msgspec.json.decode(second[-1]))
    result = tuple(merged)
    return old if result == old else result


def _scrubbed(row: ColumnValues) -> ColumnValues:
    """Return the row of a disposed render, as `DisposalQueries.scrub` would leave it."""
    fields = dict(zip(COLUMNS["renders"], row, strict=True)) | {"error_message": None, "extra": None}
    if row[ASSET_KEY] is not None:
        fields["asset_key"] = default_asset_key(row[1], row[0])
    return tuple(fields.values())


def _is_older(kind: Kind, new: ColumnValues, old: ColumnValues) -> bool:
    if kind == "renders":
        return _RANK.get(new[STATUS], _FINAL) < _RANK.get(old[STATUS], _FINAL)
    return kind == "projects" and (new[UPDATED_AT] or "") < (old[UPDATED_AT] or "")
