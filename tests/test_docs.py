"""The docs say what the program does."""

import re
import subprocess
import sys

import click
import pytest

import cli
from craftkit_archive import __version__
from craftkit_archive.records import Verdict
from tests.worlds import ROOT


def _commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    below = command.commands if isinstance(command, click.Group) else {}
    return [(path, command), *(pair for name, one in below.items() for pair in _commands(one, f"{path} {name}"))]


def test_the_reference_is_as_the_program_is() -> None:
    done = subprocess.run([sys.executable, "-m", "cogapp", "--check", "docs/cli.md"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, "run `make docs`"


@pytest.mark.parametrize(("path", "command"), _commands(cli.main, "craftkit-archive"))
def test_every_command_and_option_explains_itself(path: str, command: click.Command) -> None:
    assert command.help, path
    assert f"\n## {path}\n" in (ROOT / "docs/cli.md").read_text()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]}"


def test_every_verdict_and_table_is_in_the_design() -> None:
    design = (ROOT / "docs/design.md").read_text()
    told = set(re.findall(r"`([a-z-]+)`", design.split("## Verify")[1].split("## Export")[0]))
    assert set(Verdict.__args__) <= told  # type: ignore[attr-defined]
    for name in ("craftkit_archive", "server"):
        for file in (ROOT / name).glob("[a-z]*.py"):
            assert file.name in design, f"{file.name} has no place in the house of docs/design.md"


def test_the_top_of_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


def test_links_in_the_docs_lead_somewhere() -> None:
    for file in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
