"""The docs say what the program does."""

import os
import re
import shlex
import shutil
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
    written = [str(file) for file in (ROOT / "docs").rglob("*.md") if "[[[cog" in file.read_text()]
    assert len(written) > 10
    done = subprocess.run([sys.executable, "-m", "cogapp", "--check", *written], cwd=ROOT, capture_output=True)
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


PAGES = {
    file.name: file.read_text()
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if file.name != "cli.md"  # is made of the help, whose examples are tried above
}


def _commands_of(page: str) -> Iterator[str]:
    """Yield the lines of shell that a page prints in its blocks, continued ones as one, what is indented without it."""
    text = re.sub(r"<!-- \[\[\[cog.*?\]\]\] -->", "", page, flags=re.DOTALL)
    blocks = re.findall(r"^```(?:sh|bash|text|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"^    (craftkit-archive .*)$", text, re.MULTILINE)
    for block in blocks:
        block = re.sub(r"<<'END'$.*?^END$", "", block, flags=re.DOTALL | re.MULTILINE)
        yield from block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_has_words_that_the_program_knows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what no test runs, because it needs a network or a machine of its own, this much is tried."""
    monkeypatch.chdir(tmp_path)
    for line in _commands_of(PAGES[name]):
        called = re.search(r"(?:^|[;|(&]\s*|-- |\* +)(?:/opt/craftkit-archive/bin/)?(craftkit-archive [a-z-].*)", line)
        if called is None:
            continue
        for given in _calls(re.sub(r"&&|\|\||[()]", ";", called[1])):
            try:
                _parse(given, tmp_path)
            except click.BadParameter as error:
                if not error.message.endswith("does not exist."):
                    raise


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "```toml" in text])
def test_every_configuration_of_a_page_is_valid(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    assert CliRunner().invoke(cli.main, ["--archive", str(archive), "init"]).exit_code == 0
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGES[name], re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"craftkit-archive\.toml <<'END'\n(.*?)^END$", PAGES[name], re.DOTALL | re.MULTILINE)
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        for words in [["config", "show"], *([["nightly", "--dry-run"]] if "[nightly]" in block else [])]:
            done = CliRunner().invoke(cli.main, ["--config", str(file), "--archive", str(archive), *words])
            assert done.exit_code == 0, f"{words} {block}\n{done.output}"


def test_cron_finds_the_program_that_a_page_names() -> None:
    """Its path has neither /opt nor /usr/local in it."""
    lines = [line for text in PAGES.values() for line in _commands_of(text) if re.match(r"[\d*/]+( [\d*/]+){4} ", line)]
    assert len(lines) >= 2
    for line in lines:
        assert line.split()[5].startswith("/"), line


def test_the_unit_of_the_night_may_do_what_the_pages_configure() -> None:
    unit = (ROOT / "docs/operations/craftkit-archive-nightly.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command.split()[-1] == "nightly", "an option here would take precedence over the configuration"
    (writable,) = re.findall(r"^ReadWritePaths=(.*)$", unit, re.MULTILINE)
    first, *others = writable.split()
    assert first == "/srv/archive"
    assert all(path.startswith("-") for path in others), "a path that is not there would keep the unit from starting"
    asked = [path for page in ("nightly.md", "first-hour.md") for path in _written_to(PAGES[page])]
    assert asked
    for path in asked:
        assert any(path == known or path.startswith(f"{known}/") for known in [first, *(o[1:] for o in others)]), path


def _written_to(page: str) -> Iterator[str]:
    """Yield the absolute paths that the nights of a page write to."""
    for block in re.findall(r"^\[nightly\]\n(.*?)(?=^\[|^```|^END)", page, re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^(?:report|backup|page) = .*$", block, re.MULTILINE):
            yield from re.findall(r'"(/[^"]+)"', line)


def test_the_units_are_valid(tmp_path: Path) -> None:
    if (tool := shutil.which("systemd-analyze")) is None:
        assert not os.environ.get("CI"), "install systemd"
        pytest.skip("systemd-analyze is not installed")
    for file in (ROOT / "docs/operations").glob("craftkit-archive*.*"):
        # The program is not where the unit has it.
        text = re.sub(r"^(ExecStart=).*$", r"\1/bin/true", file.read_text(), flags=re.MULTILINE)
        (tmp_path / file.name).write_text(text)
    files = [str(file) for file in tmp_path.iterdir()]
    done = subprocess.run([tool, "verify", "--man=no", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_target_of_make_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for text in PAGES.values() for word in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)}
    assert named
    assert named <= targets


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
        while given and given[0] in ("--archive", "--config", "--json", "--quiet", "--version"):
            given = given[2:] if given[0] in ("--archive", "--config") else given[1:]
        if given:
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
    for file in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
