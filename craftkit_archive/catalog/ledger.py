"""The queries of the ledger: runs, findings, accepted losses."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from craftkit_archive.catalog.counting import TotalsQueries
from craftkit_archive.catalog.rows import PAGE, json_text
from craftkit_archive.coverage import Coverage
from craftkit_archive.errors import RECOVER, CatalogDamagedError
from craftkit_archive.records import Acknowledgement, Finding, Note, RunInfo


class LedgerQueries(TotalsQueries):
    """Queries on runs, findings and accepted losses."""

    def begin_run(self, command: str, arguments: dict[str, Any], started_at: str) -> int:
        """Insert the row of a run that is beginning, and return its number."""
        rows = self._query(
            "INSERT INTO runs (command, arguments, started_at) VALUES (?, ?, ?) RETURNING id",
            (command, json_text(arguments), started_at),
        )
        return int(rows[0][0])

    def finish_run(
        self,
        run_id: int,
        *,
        finished_at: str,
        outcome: str,
        counts: dict[str, int],
        bytes_read: int,
        coverage: Coverage | None = None,
    ) -> None:
        """Record how a run ended."""
        covered = (coverage.days, coverage.stored_bytes, coverage.covered_bytes) if coverage else (None, None, None)
        self._query(
            "UPDATE runs SET finished_at = ?, outcome = ?, counts = ?, bytes_read = ?,"
            " coverage_days = ?, stored_bytes = ?, covered_bytes = ? WHERE id = ?",
            (finished_at, outcome, json_text(counts), bytes_read, *covered, run_id),
        )
        self.drop_empty_totals()

    def last_runs(self, limit: int) -> list[RunInfo]:
        """Return the latest runs, newest first."""
        return self._runs("ORDER BY id DESC LIMIT ?", (limit,))

    def find_run(self, run_id: int | None, command: str | None = None) -> RunInfo | None:
        """Return a run by its number, or the latest one; only of one command if it is given. None if there is none."""
        found = self._runs(
            "WHERE command = COALESCE(?, command) AND id = COALESCE(?, id) ORDER BY id DESC LIMIT 1", (command, run_id)
        )
        return found[0] if found else None

    def covering_runs(self, limit: int) -> list[RunInfo]:
        """Return the latest runs that recorded their coverage, oldest first."""
        return self._runs("WHERE coverage_days IS NOT NULL ORDER BY id DESC LIMIT ?", (limit,))[::-1]

    def _runs(self, which: str, parameters: Sequence[Any]) -> list[RunInfo]:
        rows = self._query(
            "SELECT id, command, started_at, finished_at, outcome, COALESCE(counts, '{}'), COALESCE(bytes_read, 0),"
            f" arguments, coverage_days, stored_bytes, covered_bytes FROM runs {which}",
            parameters,
        )
        try:
            return [
                RunInfo(
                    run_id,
                    command,
                    started_at,
                    finished_at,
                    outcome,
                    msgspec.json.decode(counts, type=dict[str, int]),
                    bytes_read,
                    msgspec.json.decode(arguments or "{}", type=dict[str, Any]),
                    *covered,
                )
                for run_id, command, started_at, finished_at, outcome, counts, bytes_read, arguments, *covered in rows
            ]
        except msgspec.DecodeError as error:
            raise CatalogDamagedError(
                f"The catalog {self.path} has a run whose counts are damaged. {RECOVER}"
            ) from error

    def findings_of(self, run_id: int) -> Iterator[Finding | Note]:
        """Yield what a run found, in the order in which it was found."""
        after = 0
        while page := self._query(
            "SELECT rowid, run_id, render_id, key, verdict, expected, found, detail, found_at, acknowledged"
            " FROM findings WHERE run_id = ? AND rowid > ? ORDER BY rowid LIMIT ?",
            (run_id, after, PAGE),
        ):
            after = page[-1][0]
            for _, run, render_id, key, verdict, expected, found, detail, at, accepted in page:
                if verdict == "ok":
                    yield Note(run, render_id, key, detail or "", at)
                else:
                    yield Finding(run, render_id, key, verdict, at, expected, found, detail, accepted)

    def record_checks(self, verified_at: str, verdict: str, render_ids: Sequence[str]) -> None:
        """Record one verdict on these assets."""
        with self._keeping_totals(render_ids, ("ok", verified_at) if verdict == "ok" else None):
            self._query(
                "UPDATE assets SET verified_at = ?, verdict = ? WHERE render_id IN (SELECT value FROM json_each(?))",
                (verified_at, verdict, json_text(render_ids)),
            )
            if verdict == "ok":
                self.end_acknowledgements(render_ids)

    def states_of(self, render_ids: Sequence[str]) -> dict[str, str | None]:
        """Map those of these render ids that exist to the states of their PDFs; None if a render expects no PDF."""
        sql = "SELECT render_id, state FROM asset_states WHERE render_id IN (SELECT value FROM json_each(?))"
        return {render_id: state for render_id, state in self._query(sql, (json_text(render_ids),))}

    def acknowledge(self, render_ids: Sequence[str], reason: str, accepted_at: str) -> None:
        """Accept the present states of these renders' PDFs; an earlier acceptance is replaced, reason included."""
        # The old acceptance goes first: with it, the view shows `acknowledged` instead of the state itself.
        self.end_acknowledgements(render_ids)
        states = self.states_of(render_ids)
        self._write(
            "INSERT INTO acknowledgements (render_id, state, reason, accepted_at) VALUES (?, ?, ?, ?)",
            [(render_id, states[render_id], reason, accepted_at) for render_id in render_ids],
        )

    def acknowledgements(self, render_ids: Sequence[str] | None) -> list[Acknowledgement]:
        """Return the accepted losses of these renders, or all, in the order of render ids."""
        rows = self._query(
            "SELECT k.render_id, COALESCE(s.key, ''), k.state, k.reason, k.accepted_at,"
            " COALESCE(s.state = 'acknowledged', 0) FROM acknowledgements AS k"
            " LEFT JOIN asset_states AS s ON s.render_id = k.render_id"
            " WHERE ?1 IS NULL OR k.render_id IN (SELECT value FROM json_each(?1)) ORDER BY k.render_id",
            (json_text(render_ids),),
        )
        return [
            Acknowledgement(render_id, key, state, reason, accepted_at, bool(in_force))
            for render_id, key, state, reason, accepted_at, in_force in rows
        ]

    def accepted(self, render_ids: Sequence[str]) -> dict[tuple[str, str], str]:
        """Map `(render id, accepted state)` to the reason for which the state was accepted."""
        if not render_ids:
            return {}
        sql = (
            "SELECT render_id, state, reason FROM acknowledgements WHERE render_id IN (SELECT value FROM json_each(?))"
        )
        return {(render_id, state): reason for render_id, state, reason in self._query(sql, (json_text(render_ids),))}

    def end_acknowledgements(self, render_ids: Sequence[str]) -> None:
        """Delete the acceptances of these renders' states."""
        self._query(
            "DELETE FROM acknowledgements WHERE render_id IN (SELECT value FROM json_each(?))", (json_text(render_ids),)
        )

    def add_findings(self, findings: Iterable[Finding | Note]) -> None:
        """Record the findings of a run; a note is a row whose verdict is `ok`."""
        self._write(
            "INSERT INTO findings (run_id, render_id, key, verdict, expected, found, detail, found_at, acknowledged)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (f.run_id, f.render_id, f.key, "ok", None, None, f.detail, f.found_at, None)
                if isinstance(f, Note)
                else (
                    f.run_id,
                    f.render_id,
                    f.key,
                    f.verdict,
                    f.expected,
                    f.found,
                    f.detail,
                    f.found_at,
                    f.acknowledged,
                )
                for f in findings
            ),
        )
