"""The queries that keep the running totals (see `totals`) current where many rows are written at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import json_text
from craftkit_archive.catalog.totals import ADDED, COLUMNS, GROUPED, change_totals


class TotalsQueries(Connection):
    """Updates the totals where many rows are written at a time, and recounts them."""

    @contextmanager
    def _keeping_totals(self, render_ids: Sequence[str], becomes: tuple[str, str] | None = None) -> Iterator[None]:
        """Update the totals of some renders in one step while their rows are written, with the triggers switched off.

        Args:
            render_ids: The renders; empty if what is written changes no state.
            becomes: The state and the time of the check that the stored ones have afterwards; looked up if not given.
        """
        ids = (json_text(render_ids),)
        where = " WHERE render_id IN (SELECT value FROM json_each(?))"
        with self.transaction():
            self._query("INSERT INTO totals_kept DEFAULT VALUES")
            before = self._query(GROUPED.format(sign="", where=where), ids) if render_ids else []
            self._add_up([(*row[:3], *(-count for count in row[3:])) for row in before])
            yield
            if becomes is not None and all(row[3] == row[5] for row in before):  # all of them are stored
                self._add_up([(row[0], *becomes, *row[3:]) for row in before])
            elif render_ids:
                self._query(change_totals("", where), ids)
            self._query("DELETE FROM totals_kept")

    def _add_up(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._write(f"INSERT INTO totals ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?){ADDED}", rows)

    def _known_ids(self, table: str, column: str, ids: Iterable[str]) -> set[str]:
        """Return those of these ids that a column of a table has."""
        ids = list(ids)
        if ids and min(ids) > self._query(f"SELECT COALESCE(MAX({column}), '') FROM {table}")[0][0]:
            return set()  # a first import in the order of ids needs no other look-up
        sql = f"SELECT {column} FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        return {found for (found,) in self._query(sql, (json_text(ids),))}

    @contextmanager
    def _adding_renders(self, renders: Mapping[str, tuple[str, str]], known: set[str]) -> Iterator[None]:
        """Update the totals while renders are written.

        Args:
            renders: Project id and status of each, by render id.
            known: Those of the ids that have a row already.
        """
        # A new row has a PDF nobody knows, and is simply added up. Looked up are ids that may have a state already:
        # those with a row, those that are disposed, and those whose asset outlived a row that somebody deleted.
        looked_up = set(renders)
        if not self._has_tombstones():
            left = (self._known_ids(table, "render_id", renders) for table in ("assets", "acknowledgements"))
            looked_up = known.union(*left)
        with self._keeping_totals(list(looked_up)):
            yield
            self._add_new(Counter(what for render_id, what in renders.items() if render_id not in looked_up))

    def _has_tombstones(self) -> bool:
        made = self._query("SELECT 1 FROM sqlite_master WHERE name = 'tombstones'")
        return bool(made and self._query("SELECT 1 FROM tombstones LIMIT 1"))

    def _add_new(self, renders: Counter[tuple[str, str]]) -> None:
        """Add new renders to the totals, by project id and status; none of their PDFs is recorded yet."""
        self._write(
            f"INSERT INTO totals ({COLUMNS}) VALUES (?1, CASE WHEN ?2 THEN 'not-stored' ELSE '' END, '', ?3,"
            f" CASE WHEN ?2 THEN ?3 ELSE 0 END, 0, 0){ADDED}",
            [(project_id, status == "succeeded", count) for (project_id, status), count in renders.items()],
        )

    def count_anew(self) -> bool:
        """Recount everything into the table, and return whether the totals were right before."""
        with self.transaction():
            was_right = self.has_right_totals()
            if not was_right:
                self._query("DELETE FROM totals")
                self._query(change_totals("", " WHERE TRUE"))
            return was_right

    def drop_empty_totals(self) -> None:
        """Remove totals that have fallen to zero, such as those for times of checks that later ones have replaced."""
        self._query("DELETE FROM totals WHERE renders = 0")

    def has_right_totals(self) -> bool:
        """Return whether the totals agree with a full count, which takes a second for a million renders."""
        counted = GROUPED.format(sign="", where="")
        kept = f"SELECT {COLUMNS} FROM totals WHERE renders <> 0 OR stored_bytes <> 0"
        return not self._query(
            f"SELECT 1 FROM (SELECT * FROM ({counted}) EXCEPT {kept}) UNION ALL"
            f" SELECT 1 FROM ({kept} EXCEPT SELECT * FROM ({counted})) LIMIT 1"
        )
