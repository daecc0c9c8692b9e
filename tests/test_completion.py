"""Completion in real shells: what they offer, out of which archive, and that nothing ever disturbs the line."""

import os
import pty
import select
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import pytest

import cli
from craftkit_archive.archive import CATALOG
from craftkit_archive.catalog import names
from tests.worlds import NORTHWIND, ROOT, World, command, fill, load, needs

PROGRAM = "craftkit-archive"
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with the program on its path, and an archive in ~/archive and, with other names, in ~/a b."""
    home = tmp_path_factory.mktemp("home")
    program = home / "bin" / PROGRAM
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\n"
        f'exec {shlex.quote(sys.executable)} -c \'import sys, cli; sys.argv[0] = "{PROGRAM}"; cli.main()\' "$@"\n'
    )
    program.chmod(0o755)
    world = fill(home)
    load(world.archive, home, "keys", [{"id": "key:a,b", "projectId": NORTHWIND, "key": "ck_live_" + "x" * 20}])
    world.archive.catalog.close()
    spaced = home / "a b"
    assert command("init", archive=spaced).code == 0
    with closing(sqlite3.connect(spaced / CATALOG)) as catalog, catalog:
        catalog.execute("INSERT INTO projects (id, name, slug) VALUES ('p-1', 'Orchard', 'orchard')")
    (home / "invoices.ndjson").touch()
    for shell in SHELLS:
        folder = {"bash": home, "zsh": home / "fpath", "fish": home / ".config/fish/completions"}[shell]
        assert command("completion", "install", shell, "--to", folder).code == 0
    return home


@contextmanager
def typing_in(shell: str, home: Path) -> Iterator[Callable[[str], str]]:
    """Start a shell on a terminal; what is called with keys gives what was on the screen after them."""
    words = {
        "bash": ["bash", "--norc", "--noprofile", "-i"],
        "zsh": ["zsh", "-f", "-i"],
    }[shell]
    setup = {
        "bash": f"bind 'set bell-style none'; bind 'set completion-query-items 0'; bind 'set page-completions off';"
        f" bind 'set enable-bracketed-paste off'; source {home}/{PROGRAM}; PS1='% '",
        "zsh": f"unsetopt zle_bracketed_paste beep; fpath=({home}/fpath $fpath); autoload -Uz compinit;"
        " compinit -u -D; PS1='%% '; LISTMAX=0",
    }[shell]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(home)
        os.execvpe(words[0], words, environment(home))
    try:
        seen = bytearray()

        def wait(until: str, seconds: float = 20.0) -> str:
            """Return what comes up to a text, and keep what follows it for the next time."""
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and until.encode() not in seen:
                if select.select([terminal], [], [], 0.2)[0]:
                    seen.extend(os.read(terminal, 65536))
            end = seen.find(until.encode()) + len(until) if until.encode() in seen else len(seen)
            found = seen[:end].decode(errors="replace")
            del seen[:end]
            return found

        def press(keys: str) -> str:
            # A comment after what was completed says when the shell has dealt with it.
            os.write(terminal, keys.encode())
            os.write(terminal, b"#END")
            shown = wait("#END")
            os.write(terminal, b"\x15")
            return shown

        os.write(terminal, f"{setup}; echo REA''DY\n".encode())
        wait("READY\r\n")
        wait("% ")  # what is typed before the prompt, the terminal itself shows, and Tab as it is
        yield press
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def environment(home: Path, **more: str) -> dict[str, str]:
    path = f"{home}/bin:{os.environ['PATH']}"
    return {"HOME": str(home), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8", "MINE": str(home / "archive")} | more


def offered(shell: str, home: Path, line: str) -> str:
    """Return what a shell makes of a line and a press of Tab; of fish, which needs no terminal, its offers."""
    needs(shell)
    if shell == "fish":
        words = ["fish", "--command", f"cd {home}; complete --do-complete {shlex.quote(line)}"]
        done = subprocess.run(words, env=environment(home), capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr
    with typing_in(shell, home) as press:
        return press(f"{line}\t")


@pytest.mark.long
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offer"),
    [
        ("craftkit-archive veri", "verify"),
        ("craftkit-archive keys rev", "revoke"),
        ("craftkit-archive verify --tim", "--time-limit"),
        ("craftkit-archive verify --level si", "size"),
        ("craftkit-archive --archive ~/archive verify --project no", "northwind"),
        ("craftkit-archive verify --archive $MINE --project no", "northwind"),
        ("craftkit-archive --archive archive verify --project=no", "northwind"),
        ("craftkit-archive --archive 'a b' export out --project or", "orchard"),
        ("craftkit-archive --archive archive keys revoke key-", "key-4"),
        ("craftkit-archive --archive archive import renders inv", "invoices.ndjson"),
        ("craftkit-archive --archive archive fetch buc", "bucket"),
    ],
)
def test_a_shell_offers_what_fits(home: Path, shell: str, line: str, offer: str) -> None:
    # Twice: where several fit, bash lists them at the second time.
    shown = offered(shell, home, line if shell == "fish" else f"{line}\t")
    assert offer in shown, shown


@pytest.mark.parametrize("shell", SHELLS)
def test_a_name_with_the_shells_own_characters_is_completed_whole(home: Path, shell: str) -> None:
    line = "craftkit-archive --archive archive keys revoke key:"
    shown = offered(shell, home, line).replace("\\", "")
    assert "key:a,b" in (shown if shell == "fish" else shown.partition("#END")[0]), shown


@pytest.mark.parametrize("shell", SHELLS)
def test_an_archive_that_is_not_there_or_damaged_offers_nothing_and_says_nothing(home: Path, shell: str) -> None:
    damaged = home / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / CATALOG).write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    for where in ("nowhere", "damaged", "invoices.ndjson"):
        line = f"craftkit-archive --archive {where} verify --project no"
        shown = offered(shell, home, line)
        shown = shown.replace("#END", "").replace(line, "").strip()
        assert "\n" not in shown, shown
        assert "rror" not in shown, shown
        assert "Traceback" not in shown, shown


def complete(home: Path, line: str, **more: str) -> tuple[int, str, str]:
    """Ask as the script for bash does."""
    asked = {"COMP_LINE": line, "_CRAFTKIT_ARCHIVE_COMPLETE": "bash_complete"} | more
    done = subprocess.run(
        [home / "bin" / PROGRAM], cwd=home, env=environment(home, **asked), capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("craftkit-archive --archive archive runs show ", ["5", "4", "3", "2", "1"]),
        ("craftkit-archive --archive archive report ", []),  # nothing was verified yet
        ("craftkit-archive --archive archive runs list --command imp", ["import"]),
        (f"craftkit-archive --archive archive verify --project {NORTHWIND[:-1]}", [NORTHWIND]),
        ("craftkit-archive --archive archive keys revoke key-3", []),  # it is revoked
    ],
)
def test_names_come_from_the_archive(home: Path, line: str, offers: list[str]) -> None:
    code, out, err = complete(home, line)
    assert (code, err) == (0, "")
    found = [one.partition(",")[2] for one in out.splitlines()]
    assert found[: len(offers)] == offers if offers else not any(found)


def _options(command: click.Command, *path: str) -> Iterator[tuple[str, click.Option]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield " ".join(path), parameter
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from _options(below, *path, name)


@pytest.mark.parametrize("path", [path for path, option in _options(cli.main) if "--project" in option.opts])
def test_every_option_that_names_a_project_completes_it(home: Path, path: str) -> None:
    begun = NORTHWIND if path == "import" else "nor"  # which may bring a project in by its id
    offer = NORTHWIND if path == "import" else "northwind"
    assert complete(home, f"craftkit-archive --archive archive {path} --project {begun}")[1] == f"plain,{offer}\n"


@pytest.mark.parametrize(
    "line",
    [
        "craftkit-archive verify --bogus x --project ",
        "craftkit-archive bogus ",
        "craftkit-archive keys 'revoke ",
        'craftkit-archive verify --project "no',
        "craftkit-archive verify --level bogus --project ",
        "craftkit-archive --archive",
        "craftkit-archive --archive \\",
        "craftkit-archive",
        "",
        "craftkit-archive verify --project \x00".replace("\x00", "\x01"),
        "craftkit-archive serve --listen x --trusted-proxy bogus --",
    ],
)
def test_no_line_makes_it_fail(home: Path, line: str) -> None:
    code, _, err = complete(home, line)
    assert (code, err) == (0, "")


def test_nothing_is_written_and_a_writer_is_not_waited_for(tmp_path: Path, home: Path) -> None:
    world = fill(tmp_path)
    world.archive.catalog.close()

    def files() -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in world.archive.path.rglob("*")
            if path.is_file()
        }

    before = files()
    line = f"craftkit-archive --archive {world.archive.path} verify --project no"
    assert complete(home, line)[1] == "plain,northwind\n"
    assert files() == before
    # A reader that may only see the log, and one whom a program keeps out altogether.
    with closing(sqlite3.connect(world.archive.path / CATALOG, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE projects SET name = 'x'")
        assert complete(home, line)[1] == "plain,northwind\n"
        writer.execute("COMMIT")
        writer.execute("INSERT INTO projects (id, name, slug) VALUES ('n', 'N', 'nova')")
        assert complete(home, line)[1] == "plain,northwind\nplain,nova\n"
        writer.execute("PRAGMA locking_mode = EXCLUSIVE")
        writer.execute("BEGIN IMMEDIATE")
        assert complete(home, line)[::2] == (0, "")


def test_a_large_or_slow_catalog_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = world.archive.path / CATALOG
    assert names.names_that_begin(catalog, "", ["projects"])
    slow = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, ?1 FROM n WHERE x < 0"
    monkeypatch.setitem(names._QUESTIONS, "projects", slow)
    began = time.monotonic()
    assert names.names_that_begin(catalog, "", ["projects"]) == []
    assert time.monotonic() - began < 5 * names.PATIENCE_SECONDS
    pipe = world.folder / "pipe"
    os.mkfifo(pipe)
    assert names.names_that_begin(pipe, "", ["keys"]) == []


def test_install_says_what_it_wrote_and_does_it_once(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "BASH_COMPLETION_USER_DIR": ""}
    places = {
        "bash": tmp_path / ".local/share/bash-completion/completions/craftkit-archive",
        "fish": tmp_path / ".config/fish/completions/craftkit-archive.fish",
    }
    for shell, file in places.items():
        first = command("completion", "install", env={**home, "SHELL": f"/usr/bin/{shell}"})
        assert (first.code, first.out) == (0, "")
        assert f"Wrote {file}." in first.err
        assert file.read_text() == command("completion", "show", shell).out
        wrote_at = file.stat().st_mtime_ns
        again = command("completion", "install", shell, env=home)
        assert f"{file} is up to date." in again.err
        assert file.stat().st_mtime_ns == wrote_at
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(places.values()), "no rc file"
    places["fish"].write_text("complete -c craftkit-archive -f")
    refused = command("completion", "install", "fish", env=home)
    assert refused.code == 2
    assert "Move it away" in refused.err
    assert places["fish"].read_text() == "complete -c craftkit-archive -f"
    assert command("completion", "install", env={**home, "SHELL": "/bin/tcsh"}).code == 2


def test_install_for_zsh_takes_a_folder_that_zsh_searches_or_says_how_it_will(tmp_path: Path) -> None:
    needs("zsh")
    # As somebody who cannot write to the site's folder; root can.
    nobody = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    (tmp_path / ".zshrc").write_text(f"fpath=({tmp_path}/functions)\n")
    done = command("--json", "completion", "install", "zsh", env=nobody)
    assert done.lines[-1]["details"]["file"] == str(tmp_path / "functions/_craftkit-archive")
    (tmp_path / ".zshrc").write_text("fpath=(/usr/share/zsh/functions)\n")
    done = command("completion", "install", "zsh", env=nobody)
    assert f"Wrote {tmp_path}/data/zsh/site-functions/_craftkit-archive." in done.err
    line = next(line for line in done.err.splitlines() if line.startswith("  fpath="))
    (tmp_path / ".zshrc").write_text(line)
    shown = subprocess.run(
        ["zsh", "-ic", "whence -w _craftkit-archive"],
        env=environment(tmp_path, **nobody),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "_craftkit-archive: function" in shown.stdout, shown.stderr
