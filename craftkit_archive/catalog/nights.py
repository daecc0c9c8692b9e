"""The queries of the nightly job: what each night did, and how it ended."""

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import Night
from craftkit_archive.records import NightStep


class NightQueries(Connection):
    """Queries on nights and their steps."""

    def put_step(self, run_id: int, position: int, step: NightStep) -> None:
        """Record how a step of a night ended."""
        self._query(
            "INSERT INTO night_steps (run_id, position, name, command, outcome, exit_code, sentence, started_at,"
            " finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                position,
                step.name,
                step.command,
                step.outcome,
                step.exit_code,
                step.sentence,
                step.started_at,
                step.finished_at,
            ),
        )

    def put_night(self, run_id: int, exit_code: int, sentence: str, state: str) -> None:
        """Record how a night ended; the next one compares its own state with `state`."""
        self._query(
            "INSERT INTO nights (run_id, exit_code, sentence, state) VALUES (?, ?, ?, ?)",
            (run_id, exit_code, sentence, state),
        )

    def told_state(self) -> str | None:
        """Return the state of the last night that everybody was notified of; None before the first."""
        rows = self._query("SELECT state FROM nights WHERE told ORDER BY run_id DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    def mark_told(self, run_id: int) -> None:
        """Record that everybody was notified of a night."""
        self._query("UPDATE nights SET told = 1 WHERE run_id = ?", (run_id,))

    def last_good_step(self, name: str) -> str | None:
        """Return the time at which the latest successful step of this name began; None if none ever succeeded."""
        rows = self._query(
            "SELECT started_at FROM night_steps WHERE name = ? AND outcome = 'ok' ORDER BY run_id DESC LIMIT 1", (name,)
        )
        return str(rows[0][0]) if rows else None

    def nights(self, limit: int) -> list[Night]:
        """Return the latest nights with their steps, newest first; the end of a killed one is None."""
        runs = self._query(
            "SELECT r.id, r.started_at, r.finished_at, n.exit_code, n.sentence FROM runs AS r"
            " LEFT JOIN nights AS n ON n.run_id = r.id WHERE r.command = 'nightly' ORDER BY r.id DESC LIMIT ?",
            (limit,),
        )
        return [Night(row[0], row[1], row[2], row[3], row[4], self._steps_of(row[0])) for row in runs]

    def _steps_of(self, run_id: int) -> list[NightStep]:
        rows = self._query(
            "SELECT name, command, outcome, exit_code, sentence, started_at, finished_at FROM night_steps"
            " WHERE run_id = ? ORDER BY position",
            (run_id,),
        )
        return [NightStep(*row) for row in rows]
