"""Random histories: whatever is done in whatever order, what is held stays, and what was disposed never comes back."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.audit.log import verify_log
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.disposal.run import dispose_renders
from craftkit_archive.errors import RequestError
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.records import Record, Summary, Tombstone
from craftkit_archive.repair.rebuild import rebuild_archive
from craftkit_archive.repair.run import repair_assets
from craftkit_archive.retention.rules import place_hold, release_hold, remove_retention, set_retention
from craftkit_archive.verify.run import verify_assets
from server.app import Service
from tests.dying import die_before_change
from tests.worlds import (
    LIVE_KEY,
    NORTHWIND,
    keys,
    load,
    pdf,
    projects,
    put,
    render,
    render_id,
    summary_of,
    write_ndjson,
)

NUMBERS = range(6)
SOME = st.sets(st.sampled_from(NUMBERS), min_size=1, max_size=3)
# Each kind of name that a PDF can have: Craftkit's own, and another one.
NAMES = {number: f"Anna/{number}" if number % 2 else render_id(number) for number in NUMBERS}
KEYS = {number: f"renders/{NORTHWIND}/{name}.pdf" for number, name in NAMES.items()}
ROWS = {number: render(number, asset_key=key) for number, key in KEYS.items()}


class _History(RuleBasedStateMachine):
    """An archive, and what must be true of it after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="history"))
        self.path, self.bucket = self.folder / "archive", self.folder / "bucket"
        self.holds: dict[str, set[int]] = {}  # those in force, and what they cover
        self.by_template: set[str] = set()  # which of them hold by template
        self.disposed: set[int] = set()
        self.struck: set[int] = set()  # whose disposal has begun
        self.kept: dict[int, bytes] = {}  # of what is held, the bytes that were there
        self.backups: list[Path] = []
        self.named = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        for number in NUMBERS:
            put(self.bucket, ROWS[number]["asset_key"], pdf(f"render {number}"))
        with Archive.create(self.path) as archive:
            load(archive, self.folder, "projects", projects())
            load(archive, self.folder, "keys", keys())
            load(archive, self.folder, "renders", [ROWS[number] for number in NUMBERS[:4]])
            summary_of(fetch_assets(archive, str(self.bucket)))

    def work(self, operation: Callable[[Archive], Iterator[Record]]) -> list[Record]:
        """Do one thing as a command does it: open, work, close."""
        with Archive(self.path) as archive:
            records = list(operation(archive))
            assert isinstance(records[-1], Summary)
        return records

    def asset(self, number: int) -> Path:
        return self.path / "assets" / str(ROWS[number]["asset_key"])

    @property
    def held(self) -> set[int]:
        return set().union(*self.holds.values())

    # --- what can be done

    @rule(numbers=SOME, template=st.sampled_from(["invoice", "invoice", "letter"]))
    def import_renders(self, numbers: set[int], template: str) -> None:
        with Archive(self.path) as archive:
            load(archive, self.folder, "renders", [ROWS[number] | {"template_id": template} for number in numbers])
        self._cover()

    @rule()
    def fetch(self) -> None:
        self.work(lambda archive: fetch_assets(archive, str(self.bucket)))

    @rule()
    def verify(self) -> None:
        found = [record for record in self.work(verify_assets) if getattr(record, "verdict", None) == "missing"]
        assert found == []

    @rule(number=st.sampled_from(NUMBERS))
    def repair(self, number: int) -> None:
        if self.asset(number).exists() and number not in self.kept:
            self.asset(number).write_bytes(b"%PDF-1.4 damaged")
            self.work(verify_assets)
        self.work(lambda archive: repair_assets(archive, str(self.bucket)))

    @rule(keep=st.sampled_from(["1d", "100y"]))
    def retention(self, keep: str) -> None:
        self.work(lambda archive: set_retention(archive, keep))

    @rule()
    def no_retention(self) -> None:
        with suppress(RequestError):
            self.work(remove_retention)

    @rule(numbers=SOME)
    def hold_some(self, numbers: set[int]) -> None:
        ids = tuple(render_id(number) for number in numbers)
        self._hold(Selection(render_ids=ids), numbers)

    @rule()
    def hold_by_rule(self) -> None:
        self._hold(Selection(template_id="invoice"), set())
        self.by_template.add(f"hold {self.named}")
        self._cover()

    def _cover(self) -> None:
        """Note what holds by template cover now: they go on holding it, whatever a later import says of it."""
        with Archive(self.path) as archive:
            rows = archive.catalog._query("SELECT id FROM renders WHERE template_id = 'invoice'")
        covered = {number for number in NUMBERS if (render_id(number),) in rows}
        for name in self.by_template:
            self.holds[name] |= covered

    def _hold(self, selection: Selection, numbers: set[int]) -> None:
        self.named += 1
        name = f"hold {self.named}"
        self.work(lambda archive: place_hold(archive, name, "r", selection))
        self.holds[name] = set(numbers)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.holds)))
        self.work(lambda archive: release_hold(archive, name, "r"))
        del self.holds[name]
        self.by_template.discard(name)

    @rule(numbers=SOME)
    def dispose(self, numbers: set[int]) -> None:
        self._note(self.work(lambda archive: self._dispose(archive, numbers)))

    @rule()
    def dispose_due(self) -> None:
        self.work(lambda archive: set_retention(archive, "1d"))
        self._note(self.work(lambda archive: self._dispose(archive, None)))

    def _dispose(self, archive: Archive, numbers: set[int] | None) -> Iterator[Record]:
        ids = None if numbers is None else tuple(render_id(number) for number in numbers)
        selection = None if ids is None else Selection(render_ids=ids)
        return dispose_renders(archive, "r", selection=selection)

    def _note(self, records: list[Record]) -> None:
        ids = {record.render_id for record in records if isinstance(record, Tombstone)}
        gone = {number for number in NUMBERS if render_id(number) in ids}
        assert not gone & self.held
        self.disposed |= gone

    @rule(numbers=st.none() | SOME, changes=st.integers(1, 25))
    def kill_a_disposal(self, numbers: set[int] | None, changes: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # pytest-xdist has threads, which the child does not use
            child = os.fork()
        if not child:
            die_before_change(changes)
            try:
                list(self._dispose(Archive(self.path), numbers))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with Archive(self.path) as archive:
            struck = archive.catalog.disposed([render_id(number) for number in NUMBERS])
        self.disposed |= {number for number in NUMBERS if render_id(number) in struck}

    @rule()
    def back_up(self) -> None:
        self.backups.append(self.folder / f"{len(self.backups)}.db")
        with Archive(self.path) as archive:
            archive.catalog.back_up(self.backups[-1])

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self._lose_catalog()
        shutil.copyfile(data.draw(st.sampled_from(self.backups)), self.path / CATALOG)
        # If it is older than what was disposed, nobody reads it before it is brought up to date.
        with suppress(RequestError), Archive(self.path, read_only=True) as archive:
            self._check_dead(archive)
        # An older catalog has older templates too: what holds by template cover is seen anew.
        for name in self.by_template:
            self.holds[name] = set()
        self._cover()

    @rule()
    def rebuild(self) -> None:
        self._lose_catalog()
        files = {
            "projects": write_ndjson(self.folder / "p.ndjson", projects()),
            "keys": write_ndjson(self.folder / "k.ndjson", keys()),
            "renders": write_ndjson(self.folder / "r.ndjson", list(ROWS.values())),
        }
        given: Any = {kind: [str(file)] for kind, file in files.items()}
        summary_of(rebuild_archive(self.path, given))
        self._cover()

    def _lose_catalog(self) -> None:
        for file in self.path.glob(f"{CATALOG}*"):
            file.unlink()

    @rule()
    def export(self) -> None:
        out = self.folder / "out"
        with suppress(RequestError), Archive(self.path, read_only=True) as archive:  # nothing may be selected
            list(export_assets(archive, out))
        for number in self.disposed:
            assert not list(out.rglob(f"{render_id(number)}.pdf"))
        shutil.rmtree(out, ignore_errors=True)

    # --- what always holds

    @invariant()
    def no_held_render_loses_a_byte(self) -> None:
        for number, body in self.kept.items():
            if number in self.held:
                assert self.asset(number).read_bytes() == body
        self.kept = {number: self.asset(number).read_bytes() for number in self.held if self.asset(number).exists()}

    @invariant()
    def the_dead_stay_dead_and_the_log_is_whole(self) -> None:
        with Archive(self.path) as archive:
            assert summary_of(verify_log(archive)).outcome == "ok"
            self._check_dead(archive)
            ids = archive.catalog.disposed([render_id(number) for number in NUMBERS])
            struck = {number for number in NUMBERS if render_id(number) in ids}
            unfinished = {tombstone.render_id for tombstone, _ in archive.catalog.unfinished("", 100)}
        assert not (struck - self.struck) & self.held
        assert struck >= self.struck
        self.struck = struck
        for number in self.disposed:
            assert not self.asset(number).exists() or render_id(number) in unfinished

    def _check_dead(self, archive: Archive) -> None:
        service = Service(archive)
        for number in self.disposed:
            assert _status(service, f"/v1/renders/{render_id(number)}/download") in (404, 409)


def _status(service: Service, path: str) -> int:
    """Ask the server's application for an address, without a network."""
    environ: dict[str, Any] = {"HTTP_AUTHORIZATION": f"Bearer {LIVE_KEY}"}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = path
    answered: list[str] = []
    list(service.app.wsgi(environ, lambda status, _headers: answered.append(status)))
    return int(answered[0].split()[0])


# A history that fails is not made shorter: that takes longer than to read it.
COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],
}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_is_held_stays_and_what_was_disposed_never_comes_back() -> None:
    run_state_machine_as_test(_History, settings=settings(max_examples=20, stateful_step_count=16, **COMMON))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_long_histories() -> None:
    run_state_machine_as_test(_History, settings=settings(max_examples=150, stateful_step_count=40, **COMMON))
