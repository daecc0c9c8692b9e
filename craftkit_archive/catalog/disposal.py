"""The queries of disposal: tombstones, the file that follows them, and what may not stay of a disposed render."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from craftkit_archive.catalog.events import EventQueries
from craftkit_archive.catalog.rows import PAGE, json_text
from craftkit_archive.proof.events import Event
from craftkit_archive.records import Tombstone
from craftkit_archive.tombstones import DISPOSED_FILE, DisposedFile

_IN = "IN (SELECT value FROM json_each(?))"
_TOMBSTONE = (
    "render_id, project_id, size_bytes, sha256, created_at, disposed_at, policy, disposed_by, finished_at, remains"
)
# What a tombstone says about its rule where only the audit log knows of the disposal.
BY_LOG = "audit log"
# Up to which row the file is known to have followed the table, and how long it was then.
_FOLLOWED = "disposed_followed"


class Striking(NamedTuple):
    """A render that is to be disposed, when, by which rule, and by whom."""

    render_id: str
    disposed_at: str
    policy: str
    by: str


class DisposalQueries(EventQueries):
    """Renders whose PDFs were deleted for good."""

    @cached_property
    def disposed_file(self) -> DisposedFile:
        """The file that follows the table of tombstones."""
        return DisposedFile(self.path.with_name(DISPOSED_FILE))

    def strike(self, renders: Sequence[Striking]) -> list[Tombstone]:
        """Begin the disposal of renders: from now on nothing of them counts as stored, or may be stored again.

        Where the bytes are stays in the tombstone until they are gone. A key that another render's PDF has is not kept:
        those bytes are not this render's.
        """
        ids = json_text([one.render_id for one in renders])
        self._write(
            "INSERT OR IGNORE INTO tombstones (render_id, project_id, size_bytes, sha256, created_at, disposed_at,"
            " policy, disposed_by, key) SELECT r.id, r.project_id, a.size_bytes, a.sha256, r.created_at, ?2, ?3, ?4,"
            " CASE WHEN a.stored_at IS NOT NULL THEN a.key WHEN NOT EXISTS"
            " (SELECT 1 FROM assets AS o WHERE o.key = r.asset_key AND o.render_id <> r.id) THEN r.asset_key END"
            " FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id WHERE r.id = ?1",
            renders,
        )
        self._query(f"DELETE FROM assets WHERE render_id {_IN}", (ids,))
        self._query(f"DELETE FROM acknowledgements WHERE render_id {_IN}", (ids,))
        return [tombstone for tombstone, _ in self._tombstones(f"WHERE render_id {_IN} ORDER BY render_id", (ids,))]

    def unfinished(self, after: str, limit: int) -> list[tuple[Tombstone, str | None]]:
        """Return disposals that have begun and not ended, by id, with the keys of their bytes."""
        which = "WHERE finished_at IS NULL AND render_id > ? ORDER BY render_id LIMIT ?"
        return self._tombstones(which, (after, limit))

    def begun(self, render_ids: Sequence[str]) -> list[tuple[Tombstone, str | None]]:
        """Return those of these renders whose disposal has begun and not ended, with the keys of their bytes."""
        which = f"WHERE finished_at IS NULL AND render_id {_IN} ORDER BY render_id"
        return self._tombstones(which, (json_text(render_ids),))

    def reopen_disposal(self, render_ids: Sequence[str]) -> list[tuple[Tombstone, str | None]]:
        """Let disposals that have ended be begun ones again, so that their bytes are looked for once more."""
        self._query(
            "UPDATE tombstones SET finished_at = NULL, key = (SELECT asset_key FROM renders WHERE id = render_id)"
            f" WHERE finished_at IS NOT NULL AND render_id {_IN}",
            (json_text(render_ids),),
        )
        return self.begun(render_ids)

    def finish_disposal(self, ends: Iterable[tuple[str, str | None]], finished_at: str, run_id: int | None) -> None:
        """Note that bytes are gone, and what remains of them; delete what may be about a person."""
        ends = list(ends)
        self.scrub([render_id for render_id, _ in ends])
        self._write(
            "UPDATE tombstones SET finished_at = ?2, remains = ?3, run_id = ?4, key = NULL WHERE render_id = ?1",
            ((render_id, finished_at, remains, run_id) for render_id, remains in ends),
        )

    def aim_disposal(self, keys: Mapping[str, str]) -> None:
        """Say where the bytes of renders may be whose disposal has begun, such as in a catalog that was rebuilt."""
        sql = "UPDATE tombstones SET key = ? WHERE render_id = ? AND finished_at IS NULL"
        self._write(sql, ((key, render_id) for render_id, key in keys.items()))
        if keys:
            self._query(
                "UPDATE tombstones SET (project_id, created_at) = (SELECT project_id, created_at FROM renders"
                f" WHERE id = render_id) WHERE project_id = '' AND render_id {_IN}"
                " AND EXISTS (SELECT 1 FROM renders WHERE id = render_id)",
                (json_text(list(keys)),),
            )

    def scrub(self, render_ids: Sequence[str]) -> None:
        """Delete what may be about a person from the rows of disposed renders; their bytes are overwritten.

        That is `extra`, `error_message` and an asset key that is not Craftkit's own, wherever it stands.
        """
        ids = json_text(render_ids)
        named = self._query(
            "SELECT t.key, t.project_id, t.render_id FROM tombstones AS t"
            f" WHERE t.key IS NOT NULL AND t.key <> {_DEFAULT_KEY} AND t.render_id {_IN}",
            (ids,),
        )
        self._query(
            "UPDATE renders SET extra = NULL, error_message = NULL, asset_key = CASE WHEN asset_key IS NOT NULL"
            f" THEN 'renders/' || project_id || '/' || id || '.pdf' END WHERE id {_IN}",
            (ids,),
        )
        self._query(
            f"UPDATE findings SET detail = NULL, acknowledged = NULL, key = (SELECT {_DEFAULT_KEY} FROM tombstones AS t"
            f" WHERE t.render_id = findings.render_id) WHERE render_id {_IN}",
            (ids,),
        )
        for key, project_id, render_id in named:
            plain = f"renders/{project_id}/{render_id}.pdf"
            self._query(
                "UPDATE findings SET detail = NULL, acknowledged = NULL, key = ? WHERE key = ? AND render_id IS NULL",
                (plain, key),
            )
            quoted = (json_text(key) or "")[1:-1]
            self._query(
                "UPDATE runs SET arguments = replace(arguments, ?1, ?2) WHERE instr(arguments, ?1)", (quoted, plain)
            )

    def disposed(self, render_ids: Sequence[str]) -> set[str]:
        """Return those of these renders whose disposal has begun or ended."""
        found = self._query(f"SELECT render_id FROM tombstones WHERE render_id {_IN}", (json_text(render_ids),))
        return {render_id for (render_id,) in found}

    def has_disposed(self) -> bool:
        """Say whether anything was ever disposed."""
        return bool(self._query("SELECT 1 FROM tombstones LIMIT 1"))

    def tombstones_of(self, run_id: int) -> Iterator[Tombstone]:
        """Yield what a run disposed, in the order of ids."""
        after = ""
        which = "WHERE run_id = ? AND render_id > ? ORDER BY render_id LIMIT ?"
        while page := self._tombstones(which, (run_id, after, PAGE)):
            yield from (tombstone for tombstone, _ in page)
            after = page[-1][0].render_id

    def count_disposed(self) -> tuple[int, int]:
        """Count the disposed renders, and those of them whose disposal has not ended."""
        [found] = self._query("SELECT COUNT(*), COUNT(*) - COUNT(finished_at) FROM tombstones")
        return found[0], found[1]

    def _tombstones(self, which: str, values: Sequence[Any]) -> list[tuple[Tombstone, str | None]]:
        rows = self._query(f"SELECT {_TOMBSTONE}, key FROM tombstones {which}", values)
        return [(Tombstone(*row[:-1]), row[-1]) for row in rows]

    # --- the file

    def follow_disposed(self, note: Callable[[int], object]) -> int:
        """Bring the table of tombstones and its file to the same state; return how many renders only the file had.

        Their rows are struck and scrubbed as a disposal does it, and their bytes are to be looked for again: whoever
        puts an older catalog back may have put its store back too. Never called in a transaction.

        Args:
            note: Called with their number in the transaction that strikes them.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        file, struck = self.disposed_file, 0
        listed: set[str] = set()
        if self._followed() == (self._last_tombstone(), file.size_bytes):
            return 0
        with file.locked() as opened:
            number, size = self._followed()
            if file.size_bytes != size:
                struck, number = self._take_from_file(note), 0
                listed = {tombstone.render_id for tombstone in file.tombstones()}
            last = self._last_tombstone()
            size = file.append(opened, (one for one in self._later(number) if one.render_id not in listed))
            if (last, size) != self._followed():
                self._query(
                    "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (_FOLLOWED, f"{last} {size}")
                )
        return struck

    def strike_logged(self, events: Iterable[Event]) -> int:
        """Begin the disposal of renders once more that events name and neither table nor file has as disposed.

        So the dead stay dead where an older catalog is put back, or one is made again, and the file is lost as well.
        Of a render that the catalog does not have, the tombstone alone keeps an import from making a row.

        Returns:
            How many there were.
        """
        struck, listed = 0, None
        for event in events:
            if listed is None:
                listed = {tombstone.render_id for tombstone in self.disposed_file.tombstones()}
            named = {str(one) for one in event.details.get("renders") or ()} - listed
            lost = sorted(named - self.disposed(sorted(named)))
            self.strike([Striking(one, event.time, BY_LOG, event.who) for one in lost])
            self._write(
                "INSERT OR IGNORE INTO tombstones (render_id, project_id, disposed_at, policy, disposed_by)"
                " VALUES (?, '', ?, ?, ?)",
                ((one, event.time, BY_LOG, event.who) for one in lost),
            )
            self.scrub(lost)
            struck += len(lost)
        return struck

    def lags_behind_disposed(self) -> bool:
        """Say whether the file names a disposed render that this catalog does not know to be disposed."""
        _, size = self._followed()
        if self.disposed_file.size_bytes <= size:
            return False
        # A disposal under way writes the table first, and then the file.
        named = [tombstone.render_id for tombstone in self.disposed_file.tombstones(size)]
        return bool(set(named) - self.disposed(named))

    def _followed(self) -> tuple[int, int]:
        found = self._query("SELECT value FROM settings WHERE name = ?", (_FOLLOWED,))
        words = str(found[0][0]).split() if found else []
        return (int(words[0]), int(words[1])) if len(words) == 2 and "".join(words).isdecimal() else (0, 0)

    def _last_tombstone(self) -> int:
        return int(self._query("SELECT COALESCE(MAX(number), 0) FROM tombstones")[0][0])

    def _later(self, number: int) -> Iterator[Tombstone]:
        while page := self._query(
            f"SELECT number, {_TOMBSTONE} FROM tombstones WHERE number > ? ORDER BY number LIMIT ?", (number, PAGE)
        ):
            yield from (Tombstone(*row[1:]) for row in page)
            number = page[-1][0]

    def _take_from_file(self, note: Callable[[int], object]) -> int:
        struck = 0
        with self.transaction():
            for tombstone in self.disposed_file.tombstones():
                if self.disposed([tombstone.render_id]):
                    continue
                # A render that the catalog does not have, as after a rebuild, gets a row: so no import makes one.
                self._query(
                    "INSERT OR IGNORE INTO renders (id, project_id, status, asset_key, created_at)"
                    " VALUES (?1, ?2, 'succeeded', 'renders/' || ?2 || '/' || ?1 || '.pdf', ?3)",
                    (tombstone.render_id, tombstone.project_id, tombstone.created_at),
                )
                self.strike([Striking(tombstone.render_id, tombstone.disposed_at, tombstone.policy, tombstone.by)])
                self._query(
                    "UPDATE tombstones SET size_bytes = ?, sha256 = ? WHERE render_id = ?",
                    (tombstone.size_bytes, tombstone.sha256, tombstone.render_id),
                )
                self.scrub([tombstone.render_id])
                struck += 1
            if struck:
                note(struck)
        return struck


_DEFAULT_KEY = "'renders/' || t.project_id || '/' || t.render_id || '.pdf'"
