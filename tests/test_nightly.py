"""The nightly job: one night with real parts, what follows a failure, and the laws of its order and its end."""

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.configuration import FILE, Backups, Configuration, NamedSource, Nightly
from craftkit_archive.lock import hold_lock
from craftkit_archive.nightly.page import state_of_code
from craftkit_archive.nightly.steps import BACKUP, outcome_of, plan_night, prune_backups
from craftkit_archive.outcomes import WORST_ARCHIVE_FIRST, WORST_STEP_FIRST, worst_code
from craftkit_archive.values import utc_now
from tests.receivers import Receiver, http_receiver, smtp_server, wait_until
from tests.services import Database, RealService
from tests.worlds import NORTHWIND, World, command, fill, lack, pdf, program, projects, put, render, write_ndjson

NOW = datetime(2026, 11, 26, 1, 30, tzinfo=UTC)


def write(archive: Path, text: str) -> None:
    """Write the configuration of an archive."""
    (archive / FILE).write_text(text)


def steps_of(archive: Path) -> dict[str, tuple[str, int]]:
    """Return how each step of the last night ended."""
    with Archive(archive, read_only=True) as opened:
        return {step.name: (step.outcome, step.exit_code) for step in opened.catalog.nights(1)[0].steps}


# --- one night with real parts ---------------------------------------------------------------------------------------


@pytest.fixture
def database(postgres: Database) -> Iterator[Database]:
    """Return a database with the tables of Craftkit that has three renders."""
    postgres.run("createdb", "night")
    night = postgres._replace(name="night")
    night.sql(
        "CREATE TABLE projects (id text, name text, slug text);"
        "CREATE TABLE renders (id text, project_id text, template_id text, status text, asset_key text,"
        " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());"
        f"INSERT INTO projects VALUES ('{NORTHWIND}', 'Northwind', 'northwind');"
    )
    for number in range(3):
        add_row(night, number)
    yield night
    postgres.run("dropdb", "--force", "night")


def add_row(database: Database, number: int, updated: str = "now()") -> dict[str, Any]:
    """Insert a render that succeeded."""
    row = render(number)
    database.sql(
        f"INSERT INTO renders (id, project_id, template_id, status, asset_key, updated_at) VALUES ('{row['id']}',"
        f" '{NORTHWIND}', 'invoice', 'succeeded', '{row['asset_key']}', {updated});"
    )
    return row


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 1.5 MB."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", folder], capture_output=True).returncode:
        lack("the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.long
def test_a_night_with_real_parts(
    tmp_path: Path, database: Database, rclone: RealService, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, an S3 server, SMTP with TLS and a password, an HTTP receiver; then each of them fails in turn."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    archive = tmp_path / "archive"
    keys = [put(rclone.bucket, render(number)["asset_key"], pdf(f"night {number}")) for number in range(3)]
    assert len(keys) == 3
    assert command("init", archive=archive).code == 0
    password = tmp_path / "password"
    password.write_text("s3cret-mail\n")
    with (
        http_receiver() as http,
        smtp_server(certificate, password="s3cret-mail") as mail,
        small_disk(tmp_path / "backups") as backups,
    ):
        write(
            archive,
            f"""
            [sources.db]
            address = "{database.url}"
            kinds = ["projects", "renders"]
            changed = {{ renders = "updated_at" }}
            [sources.bucket]
            address = "s3://{rclone.bucket.name}"
            endpoint-url = "{rclone.url}"
            region = "us-east-1"
            [nightly]
            import = ["db"]
            fetch = ["bucket"]
            report = ["report.html", "report.prom"]
            backup = {{ directory = "../backups", keep = 1 }}
            seal = true
            head = true
            [notify]
            ping = "{http.url}/ping"
            webhook = "{http.url}/hook"
            [notify.mail]
            host = "127.0.0.1"
            port = {mail.port}
            user = "archive"
            sender = "archive@example.org"
            to = ["ops@example.org"]
            """,
        )
        env = {"CRAFTKIT_ARCHIVE_SMTP_PASSWORD_FILE": str(password)}

        def night(*words: str) -> tuple[int, str, list[str]]:
            http.got.clear()
            time.sleep(1 - time.time() % 1)  # backups are named by the second, and a small night takes less
            done = command("nightly", *words, archive=archive, env=env)
            return done.code, done.out + done.err, [request.path for request in http.got]

        # All is well: nobody but the dead man's switch is told.
        code, said, asked = night()
        assert code == 0, said
        assert asked == ["/ping/start", "/ping"]
        assert mail.got == []
        assert set(steps_of(archive).values()) == {("ok", 0)}
        assert re.search(r"import renders db: 3 read, 3 inserted", said)
        assert re.search(r"fetch bucket: .*3 copied", said)
        page = (archive / "night.html").read_text()
        assert "All is well" in page
        assert all(name in page for name in ("import renders db", "fetch bucket", "audit head"))
        assert (archive / "report.prom").exists()

        # The second night reads what was written since, and no more.
        add_row(database, 7)
        add_row(database, 8, updated="now() - interval '1 day'")
        put(rclone.bucket, render(7)["asset_key"], pdf("night 7"))
        code, said, _ = night()
        assert code == 0, said
        assert re.search(r"import renders db: 4 read, 1 inserted", said), said
        assert [file.name for file in backups.iterdir()] == [newest(backups)]

        # A damaged PDF: one mail to people, with the finding and the command to run next.
        damaged = archive / "assets" / render(0)["asset_key"]
        damaged.chmod(0o600)
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        os.utime(damaged)
        write(archive, (archive / FILE).read_text() + '[verify]\ndue = "0s"\n')
        code, said, asked = night("--quiet")
        assert code == 1, said
        assert sorted(asked) == ["/hook", "/ping/fail", "/ping/start"]
        text = mail.got[0].get_content()
        assert mail.logins == ["archive"]
        assert "problems" in mail.got[0]["Subject"]
        assert render(0)["asset_key"] in text
        assert re.search(r"craftkit-archive --archive \S+ repair bucket", text), text
        assert re.search(r"Next: craftkit-archive --archive \S+ repair bucket$", said.strip()), said
        assert "Something is wrong" in (archive / "night.html").read_text()
        hook = json.loads(next(request.body for request in http.got if request.path == "/hook"))
        assert (hook["type"], hook["exit_code"]) == ("notice", 1)

        # The database is down: the rest of the night is done all the same.
        write(archive, (archive / FILE).read_text().replace(database.url, "postgresql://x@127.0.0.1:1/night"))
        assert command("repair", "bucket", archive=archive, env=env).code in (0, 1)
        code, said, _ = night()
        ends = steps_of(archive)
        assert code == 14, said
        assert ends["import renders db"] == ("failed", 14)
        assert [name for name, (outcome, _) in ends.items() if outcome == "failed"] == [
            "import projects db",
            "import renders db",
        ]
        assert "127.0.0.1" in mail.got[-1].get_content()

        # The disk of the backups is full: that is what is told, and nothing is left of the copy.
        disk = os.statvfs(backups)
        (backups / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 65_536))
        before = sorted(file.name for file in backups.iterdir())
        code, said, _ = night("--skip", "import")
        assert code == 15, said
        assert steps_of(archive)["backup"] == ("failed", 15)
        assert sorted(file.name for file in backups.iterdir()) == before
        assert steps_of(archive)["seal"] == ("ok", 0)
        assert "No space is left" in mail.got[-1].get_content()

        # Monitoring that is down fails no night, and is said.
        (backups / "filler").unlink()
        write(archive, (archive / FILE).read_text().replace(http.url, "http://127.0.0.1:9"))
        code, said, _ = night("--skip", "import", "--skip", "backup")
        assert code == 0, said
        assert "127.0.0.1:9" in said
        assert "s3cret" not in said + (archive / "night.html").read_text() + "".join(map(str, mail.raw[-1:]))


def newest(folder: Path) -> str:
    """Return the name of the last backup."""
    return max(file.name for file in folder.iterdir())


# --- what follows a failure ------------------------------------------------------------------------------------------


@pytest.fixture
def night(world: World) -> World:
    """Return a world whose configuration does a small night."""
    write(
        world.archive.path,
        f'[sources.bucket]\naddress = "{world.bucket}"\n'
        '[nightly]\nfetch = ["bucket"]\nreport = ["report.txt"]\nseal = true\nhead = true\n',
    )
    return world


def test_without_a_configuration_nothing_is_done(world: World) -> None:
    done = command("nightly", archive=world.archive.path)
    assert done.code == 2
    assert "[nightly]" in done.err
    assert command("nightly", archive=world.folder / "none").code in (2, 10)


def test_a_dry_run_changes_nothing(night: World) -> None:
    archive = night.archive.path
    before = {file: file.read_bytes() for file in archive.rglob("*") if file.is_file() and "-" not in file.suffix}
    done = command("nightly", "--dry-run", archive=archive)
    assert done.code == 0
    planned = [line.split("planned")[1].split(":")[0].strip() for line in done.err.splitlines() if "planned  " in line]
    assert planned == ["fetch bucket", "verify", "report report.txt", "retention due", "seal", "audit head"]
    after = {file: file.read_bytes() for file in archive.rglob("*") if file.is_file() and "-" not in file.suffix}
    assert after == before


def test_a_good_night_is_silent_with_quiet(night: World) -> None:
    done = command("nightly", "--quiet", archive=night.archive.path)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_each_line_of_json_is_a_step_or_a_finding_and_the_last_is_the_one_summary(night: World) -> None:
    lines = command("--json", "nightly", archive=night.archive.path).lines
    assert [line["type"] for line in lines] == ["step"] * 6 + ["summary"]
    assert lines[-1]["counts"] == {"steps": 6, "failed": 0, "skipped": 0}
    assert lines[-1]["command"] == "nightly"


def test_other_writers_are_kept_out_for_the_whole_night(night: World) -> None:
    archive = night.archive.path
    write(archive, '[nightly]\n[notify]\ncommand = ["/bin/sleep", "0"]\n[sources.x]\naddress = "x"\n')
    with night.archive.lock("import renders"):
        done = command("nightly", archive=archive)
    assert done.code == 11
    slow = night.folder / "slow.ndjson"
    os.mkfifo(slow)
    write(archive, f'[sources.slow]\nrenders = ["{slow}"]\nkinds = ["renders"]\n[nightly]\nimport = ["slow"]\n')
    with subprocess.Popen(program("nightly", archive=archive), stderr=subprocess.PIPE) as running:
        with slow.open("wb"):
            assert command("fetch", night.bucket, archive=archive).code == 11
            assert command("keys", "list", archive=archive).code == 0
        assert running.wait(60) in (0, 1)


@pytest.mark.parametrize(("harm", "code"), [("lock", 11), ("lost", 10), ("damaged", 13)])
def test_a_night_that_cannot_begin_is_told_too(night: World, harm: str, code: int) -> None:
    archive = night.archive.path
    night.archive.catalog.close()
    with http_receiver() as http, ExitStack() as stack:
        write(archive, f'[nightly]\n[notify]\nping = "{http.url}/ping"\nwebhook = "{http.url}/hook"\n')
        if harm == "lock":
            stack.enter_context(hold_lock(archive, "import", utc_now))
        elif harm == "lost":
            (archive / "archive.db").rename(night.folder / "away.db")
        else:
            (archive / "archive.db").write_bytes(b"no database" * 1000)
        done = command("nightly", "--quiet", archive=archive)
        assert done.code == code, done.err
        assert sorted(request.path for request in http.got) == ["/hook", "/ping/fail"]
        told = json.loads(next(request.body for request in http.got if request.path == "/hook"))
        assert (told["outcome"], told["exit_code"]) == ("failed", code)
        assert told["sentence"] in done.err.replace("\n", " ")
        assert command("nightly", "--dry-run", archive=archive).code in (0, code)
        assert len(http.got) == 2


def test_a_signal_ends_the_night_and_what_was_done_is_kept(night: World) -> None:
    archive, slow = night.archive.path, night.folder / "slow.ndjson"
    os.mkfifo(slow)
    write(
        archive,
        f'[sources.slow]\nrenders = ["{slow}"]\nkinds = ["renders"]\n[nightly]\nimport = ["slow"]\nseal = true\n',
    )
    with subprocess.Popen(program("nightly", archive=archive), stderr=subprocess.PIPE) as running:
        with slow.open("wb"):
            time.sleep(0.5)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert running.wait(60) == 143
    ends = steps_of(archive)
    assert ends["seal"] == ("skipped", 0)
    with Archive(archive, read_only=True) as opened:
        assert opened.catalog.nights(1)[0].exit_code == 143


def test_a_night_that_was_killed_is_on_the_page_of_the_next(night: World) -> None:
    archive, slow = night.archive.path, night.folder / "slow.ndjson"
    text = (archive / FILE).read_text()
    os.mkfifo(slow)
    write(archive, f'[sources.slow]\nrenders = ["{slow}"]\nkinds = ["renders"]\n[nightly]\nimport = ["slow"]\n')
    with subprocess.Popen(program("nightly", archive=archive), stderr=subprocess.DEVNULL) as running, slow.open("wb"):
        time.sleep(0.5)
        running.kill()
    write(archive, text)
    assert command("nightly", archive=archive).code == 0
    page = (archive / "night.html").read_text()
    assert "The last 2 nights" in page
    with Archive(archive, read_only=True) as opened:
        nights = opened.catalog.nights(5)
    assert [one.exit_code for one in nights] == [0, None]


def test_without_time_the_verification_is_left_out_and_the_rest_is_done(night: World) -> None:
    done = command("nightly", "--time-limit", "0s", archive=night.archive.path)
    ends = steps_of(night.archive.path)
    assert ends["verify"] == ("skipped", 0)
    assert ends["report report.txt"] == ("skipped", 0)
    assert ends["seal"] == ("ok", 0)
    assert done.code == 0


def test_a_change_is_told_once_and_again_if_nobody_heard(night: World) -> None:
    archive = night.archive.path
    with http_receiver() as http:
        write(
            archive,
            (archive / FILE).read_text()
            + f'[verify]\ndue = "0s"\n[notify]\nwhen = "change"\nwebhook = "{http.url}/hook"\n',
        )

        def told() -> int:
            http.got.clear()
            command("nightly", archive=archive)
            return len(http.got)

        assert [told(), told()] == [1, 0]
        damaged = archive / "assets" / render(0)["asset_key"]
        damaged.unlink()
        http.answers = [500] * 5
        told()
        wait_until(lambda: True)
        http.answers = []
        assert [told(), told()] == [1, 0]


# --- the plan --------------------------------------------------------------------------------------------------------


def planned(
    night: Nightly, *, last: dict[str, str] | None = None, **sources: NamedSource
) -> list[tuple[str, str | None]]:
    """Return the names of the steps, and why some are skipped."""
    configuration = Configuration(sources=sources, nightly=night)
    return [(step.name, step.skipped) for step in plan_night(configuration, (last or {}).get, NOW)]


def test_steps_come_in_the_order_of_the_night() -> None:
    night = Nightly(
        import_=["db", "files"], fetch=["b"], report=["r.html"], backup=Backups(directory="/b"), seal=True, head=True
    )
    names = [
        name
        for name, _ in planned(
            night,
            db=NamedSource(address="postgresql://h/d"),
            files=NamedSource(projects=["p"], renders=["r"]),
            b=NamedSource(address="s3://b"),
        )
    ]
    assert names == [
        "import projects db", "import keys db", "import renders db", "import projects files", "import renders files",
        "fetch b", "verify", "report r.html", "retention due", "backup", "seal", "audit head",
    ]  # fmt: skip
    assert planned(Nightly(verify=False, due=False)) == []


def test_a_file_is_imported_again_only_if_it_was_replaced(tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "r.ndjson", projects())
    source, night = NamedSource(renders=[str(file)]), Nightly(import_=["f"], verify=False, due=False)
    name = "import renders f"
    assert planned(night, f=source) == [(name, None)]
    later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert planned(night, last={name: later}, f=source) == [(name, f"unchanged since {later[:10]}")]
    earlier = "2020-01-01T00:00:00.000Z"
    os.utime(file, (0, 0))  # a copy that keeps its original's time
    assert planned(night, last={name: earlier}, f=source) == [(name, None)]
    file.unlink()
    assert planned(night, last={name: later}, f=source) == [(name, None)]


def test_a_database_is_asked_for_what_changed_since_with_an_hour_of_overlap() -> None:
    source = NamedSource(address="postgresql://h/d", changed={"renders": 'up"dated'}, kinds=["renders"])
    configuration = Configuration(
        sources={"db": source},
        nightly=Nightly(import_=["db"], verify=False, due=False),
        options={"import": {"where": "a OR b"}},
    )
    last = {"import renders db": "2026-11-25T01:30:00.000Z"}
    (step,) = plan_night(configuration, last.get, NOW)
    assert step.words[-2:] == ["--where", '(a OR b) AND "up""dated" >= \'2026-11-25T00:30:00.000Z\'']
    (first,) = plan_night(configuration, {}.get, NOW)  # type: ignore[arg-type]
    assert "--where" not in first.words


# --- the end ---------------------------------------------------------------------------------------------------------


UNLISTED = (130, 137, 143, 141)


@pytest.mark.parametrize("order", [WORST_STEP_FIRST, WORST_ARCHIVE_FIRST], ids=["steps", "archives"])
@settings(deadline=None)
@given(st.lists(st.sampled_from([*WORST_STEP_FIRST, *UNLISTED]), max_size=8), st.randoms())
def test_the_worst_code_is_one_of_them_whatever_their_order(
    order: tuple[int, ...], codes: list[int], random: Any
) -> None:
    shuffled = [*codes]
    random.shuffle(shuffled)
    worst = worst_code(codes, order)
    assert worst == worst_code(shuffled, order) == worst_code([*codes, *codes], order)
    assert worst in (codes or [0])
    for one, other in itertools.combinations(codes, 2):
        assert worst_code([worst_code([one, other], order), *codes], order) == worst
    assert (worst in UNLISTED) == any(code in UNLISTED for code in codes), "a step that was killed makes no good night"


def test_every_exit_code_of_the_program_has_its_place() -> None:
    import cli

    for order in (WORST_STEP_FIRST, WORST_ARCHIVE_FIRST):
        assert sorted([*order, 130, 143, 141]) == sorted(cli.EXIT_CODE_WORDS)
    assert [outcome_of(code) for code in (0, 3, 101, 1, 16, 130, 143)] == [
        "ok", "incomplete", "limited", "problems", "problems", "interrupted", "interrupted",
    ]  # fmt: skip
    assert {state_of_code(code) for code in (0, 101)} == {"good"}
    assert state_of_code(None) == "bad"


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 8))
def test_the_newest_backups_stay_and_nothing_else_is_touched(keep: int, count: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        others = ["archive.db", "archive-2026.db", "archive-20261126T013000Z.db.part", "notes.txt"]
        for other in others:
            (folder / other).touch()
        ours = [(NOW + timedelta(days=day)).strftime(BACKUP) for day in range(count)]
        for one in ours:
            (folder / one).touch()
        gone = prune_backups(folder, keep)
        assert [file.name for file in gone] == ours[: max(0, count - keep)]
        assert {file.name for file in folder.iterdir()} == {*others, *ours[-keep:]}


def test_the_receiver_is_real(tmp_path: Path) -> None:
    """Without it, the tests above could pass because nothing is ever sent."""
    world = fill(tmp_path)
    with http_receiver() as http:
        assert isinstance(http, Receiver)
        write(world.archive.path, f'[nightly]\n[notify]\nwhen = "always"\nwebhook = "{http.url}/x"\n')
        assert command("nightly", archive=world.archive.path).code == 0
        assert [request.path for request in http.got] == ["/x"]
