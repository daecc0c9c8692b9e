"""The queries of disposal: tombstones, the file that repeats them, and the scrubbing of disposed renders' rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
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
# The policy of a tombstone that was restored from the audit log alone, which does not name the rule.
BY_LOG = "audit log"
# Setting: the number of the last tombstone that the file is known to have, and the size of the file then in bytes.
_FOLLOWED = "disposed_followed"


class Striking(NamedTuple):
    """A render to dispose of: since when, by which rule, and on whose command."""

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
        """Begin the disposal of renders: their PDFs no longer count as stored, and cannot be stored again.

        A tombstone keeps the asset key until the bytes are deleted; not one that another render's PDF has, because
        those bytes do not belong to the disposed render.
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
        """Return unfinished disposals in the order of ids, each with the asset key of the bytes to delete."""
        which = "WHERE finished_at IS NULL AND render_id > ? ORDER BY render_id LIMIT ?"
        return self._tombstones(which, (after, limit))

    def begun(self, render_ids: Sequence[str]) -> list[tuple[Tombstone, str | None]]:
        """Return the unfinished disposals among these renders, each with the asset key of the bytes to delete."""
        which = f"WHERE finished_at IS NULL AND render_id {_IN} ORDER BY render_id"
        return self._tombstones(which, (json_text(render_ids),))

    def reopen_disposal(self, render_ids: Sequence[str]) -> list[tuple[Tombstone, str | None]]:
        """Mark finished disposals as unfinished, so that their bytes are looked for again."""
        self._query(
            "UPDATE tombstones SET finished_at = NULL, key = (SELECT asset_key FROM renders WHERE id = render_id)"
            f" WHERE finished_at IS NOT NULL AND render_id {_IN}",
            (json_text(render_ids),),
        )
        return self.begun(render_ids)

    def finish_disposal(self, ends: Iterable[tuple[str, str | None]], finished_at: str, run_id: int | None) -> None:
        """Record that bytes were deleted and what remains of them, and scrub the renders' rows.

        Args:
            ends: Render ids, each with what remains of the bytes; None if nothing does.
            finished_at: Now, in UTC.
            run_id: The run that deleted them, if it was one.
        """
        ends = list(ends)
        self.scrub([render_id for render_id, _ in ends])
        self._write(
            "UPDATE tombstones SET finished_at = ?2, remains = ?3, run_id = ?4, key = NULL WHERE render_id = ?1",
            ((render_id, finished_at, remains, run_id) for render_id, remains in ends),
        )

    def aim_disposal(self, keys: Mapping[str, str]) -> None:
        """Give unfinished disposals, such as those of a rebuilt catalog, the asset keys to delete, by render id."""
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
        """Delete what may identify a person from every row about disposed renders; SQLite overwrites the bytes.

        Deleted are `extra`, `error_message`, and any asset key that Craftkit did not give.
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
        """Return whether any render was ever disposed."""
        return bool(self._query("SELECT 1 FROM tombstones LIMIT 1"))

    def tombstones_of(self, run_id: int) -> Iterator[Tombstone]:
        """Yield the tombstones of the renders that a run disposed, in the order of ids."""
        after = ""
        which = "WHERE run_id = ? AND render_id > ? ORDER BY render_id LIMIT ?"
        while page := self._tombstones(which, (run_id, after, PAGE)):
            yield from (tombstone for tombstone, _ in page)
            after = page[-1][0].render_id

    def count_disposed(self) -> tuple[int, int]:
        """Return the number of disposed renders, and of those whose disposal is unfinished."""
        [found] = self._query("SELECT COUNT(*), COUNT(*) - COUNT(finished_at) FROM tombstones")
        return found[0], found[1]

    def _tombstones(self, which: str, values: Sequence[Any]) -> list[tuple[Tombstone, str | None]]:
        rows = self._query(f"SELECT {_TOMBSTONE}, key FROM tombstones {which}", values)
        return [(Tombstone(*row[:-1]), row[-1]) for row in rows]

    # --- the file

    def follow_disposed(self, note: Callable[[int], object]) -> int:
        """Bring the table of tombstones and its file to the same state; return the number of renders only the file had.

        Those renders are disposed again, and their bytes looked for again: whoever restores an older catalog may have
        restored its store too. Never call it inside a transaction.

        Args:
            note: Called with that number, inside the transaction that disposes of them.

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
        """Dispose again of the renders that disposal events name and neither the table nor the file has.

        So a disposed render stays disposed even if an older catalog is restored, or one is rebuilt, and the file of
        tombstones is lost as well. A tombstone without a row in `renders` keeps an import from creating one.

        Args:
            events: Events of disposals, drawn one by one.

        Returns:
            The number of renders that were disposed again.
        """
        # In a temporary table, because a million ids in two sets are more than memory should take.
        self._query("DROP TABLE IF EXISTS temp.logged")
        self._query("CREATE TEMP TABLE logged (render_id TEXT PRIMARY KEY, time, who) WITHOUT ROWID")
        for event in events:
            named = map(str, event.details.get("renders") or ())
            self._write(
                "INSERT OR IGNORE INTO temp.logged VALUES (?, ?, ?)", ((one, event.time, event.who) for one in named)
            )
        if self._query("SELECT 1 FROM temp.logged LIMIT 1"):
            tombstones = self.disposed_file.tombstones()
            while listed := [tombstone.render_id for tombstone in islice(tombstones, PAGE)]:
                self._query(f"DELETE FROM temp.logged WHERE render_id {_IN}", (json_text(listed),))
        self._query("DELETE FROM temp.logged WHERE render_id IN (SELECT render_id FROM tombstones)")
        struck, after = 0, ""
        while page := self._query(
            "SELECT render_id, time, who FROM temp.logged WHERE render_id > ? ORDER BY render_id LIMIT ?", (after, PAGE)
        ):
            lost = [Striking(render_id, time, BY_LOG, who) for render_id, time, who in page]
            self.strike(lost)
            self._write(
                "INSERT OR IGNORE INTO tombstones (render_id, project_id, disposed_at, policy, disposed_by)"
                " VALUES (?, '', ?, ?, ?)",
                lost,
            )
            self.scrub([one.render_id for one in lost])
            struck, after = struck + len(lost), lost[-1].render_id
        self._query("DROP TABLE temp.logged")
        return struck

    def lags_behind_disposed(self) -> bool:
        """Return whether the file names a disposed render that has no tombstone in this catalog."""
        _, size = self._followed()
        if self.disposed_file.size_bytes <= size:
            return False
        # A longer file alone proves nothing: a disposal in progress has written the table before the file.
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
                # A render that is missing, as after a rebuild, gets a row first, so that no import creates one.
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
