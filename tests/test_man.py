"""The man pages: one for each command, which every formatter takes without complaint."""

import subprocess
from pathlib import Path

import click
import pytest

import cli
from manual.man_pages import write_pages
from tests.worlds import needs


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pages(tmp_path_factory.mktemp("share") / "man/man1")


def _names(command: click.Command, name: str) -> list[str]:
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [name, *(one for word, command in below for one in _names(command, f"{name}-{word}"))]


def test_every_command_has_a_page(pages: list[Path]) -> None:
    assert sorted(page.stem for page in pages) == sorted(_names(cli.main, "craftkit-archive"))


def test_pages_of_commands_that_are_gone_go_too(pages: list[Path], tmp_path: Path) -> None:
    (tmp_path / "craftkit-archive-gone.1").touch()
    assert write_pages(tmp_path)
    assert not (tmp_path / "craftkit-archive-gone.1").exists()


def test_mandoc_finds_nothing_to_complain_of(pages: list[Path]) -> None:
    done = subprocess.run([needs("mandoc"), "-Tlint", "-Wwarning", *pages], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_groff_finds_nothing_to_complain_of(pages: list[Path]) -> None:
    for page in pages:
        done = subprocess.run([needs("groff"), "-ww", "-man", "-Tutf8", "-z", page], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), page.name


def test_man_shows_what_the_help_says(pages: list[Path]) -> None:
    needs("man")
    (page,) = (page for page in pages if page.stem == "craftkit-archive-verify")
    done = subprocess.run(
        ["man", "-l", "--warnings", page],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "120", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.replace("\N{HYPHEN}", "-").split())
    for words in (
        "craftkit-archive-verify - check stored",
        "--time-limit DURATION",
        "craftkit-archive verify --due 30d --time-limit 2h --report report.html",
    ):
        assert words in shown


def test_no_option_and_no_text_is_lost(pages: list[Path]) -> None:
    by_name = {page.stem: page.read_text() for page in pages}

    def look(command: click.Command, name: str) -> None:
        text = by_name[name]
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                escaped = option.opts[0].replace("-", "\\-")
                assert f"\\fB{escaped}\\fR" in text, f"{name} {option.opts[0]}"
        for word, below in command.commands.items() if isinstance(command, click.Group) else ():
            look(below, f"{name}-{word}")

    look(cli.main, "craftkit-archive")
