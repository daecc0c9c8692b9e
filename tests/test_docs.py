"""The docs say what the program does."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli
from craftkit_archive import __version__
from craftkit_archive.commands.console import Console
from craftkit_archive.commands.examples import EXAMPLES
from craftkit_archive.commands.signals import Signals
from craftkit_archive.records import Verdict
from tests.worlds import ROOT


def _commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    below = command.commands if isinstance(command, click.Group) else {}
    return [(path, command), *(pair for name, one in below.items() for pair in _commands(one, f"{path} {name}"))]


def test_the_reference_is_as_the_program_is() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cogapp",
            "--check",
            "docs/cli.md",
            "docs/datasette.md",
            "docs/api.md",
            "docs/messages.md",
        ],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, "run `make docs`"


@pytest.mark.parametrize(("path", "command"), _commands(cli.main, "craftkit-archive"))
def test_every_command_and_option_explains_itself(path: str, command: click.Command) -> None:
    assert command.help, path
    assert f"\n## {path}\n" in (ROOT / "docs/cli.md").read_text()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]}"


@pytest.mark.parametrize(
    "words", [path.split()[1:] for path, _ in _commands(cli.main, "craftkit-archive")], ids=" ".join
)
def test_every_command_has_examples_that_are_right(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli.main, [*words, "--help"]).stdout
    block = shown.partition("\n  Examples:\n")[2].partition("\n\n")[0]
    lines = [line.strip() for line in block.splitlines() if not line.strip().startswith("#")]
    assert lines, "add it to craftkit_archive/commands/examples.py"
    for line in lines:
        assert len(line) <= 116, "it would be broken where the help is widest"
        calls = list(_calls(line))
        assert any(given[: len(words)] == words or words == [] for given in calls), f"{line} is of another command"
        for given in calls:
            _parse(given, tmp_path)


def _calls(line: str) -> Iterator[list[str]]:
    """Yield the words that a line of shell gives to the program each time."""
    line = re.sub(r"^\(umask 077; (.*)\)$", r"\1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>;")
    lexer.whitespace_split = True
    words = list(lexer)
    while "craftkit-archive" in words:
        words = words[words.index("craftkit-archive") + 1 :]
        end = next((at for at, word in enumerate(words) if word in ("|", ">", "<", ";")), len(words))
        # The program's own options may stand first.
        given = words[:end]
        while given[0] in ("--archive", "--config", "--json"):
            given = given[1:] if given[0] == "--json" else given[2:]
        yield given


def _parse(given: list[str], folder: Path) -> None:
    """Read the words as the program does, short of doing anything; the files that they name are there."""
    for word in given[1:]:
        if re.fullmatch(r"[a-z][\w./-]*\.\w+", word):
            (folder / word).touch()
    (folder / "data/sample").mkdir(parents=True, exist_ok=True)
    console = Console(folder, Signals(), as_json=False, progress="none", quiet=False, verbose=False)
    context = cli.main.make_context("craftkit-archive", list(given), obj=console)
    while isinstance(context.command, click.Group):
        left = [*context._protected_args, *context.args]
        name, command, left = context.command.resolve_command(context, left)
        assert command is not None
        context = command.make_context(name, left, parent=context)


def test_no_example_is_of_a_command_that_is_not_there() -> None:
    paths = {path.partition(" ")[2] for path, _ in _commands(cli.main, "craftkit-archive")}
    assert set(EXAMPLES) <= paths


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
