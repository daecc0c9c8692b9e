"""What is mistyped is answered with what was meant: commands, options, projects."""

import click
import pytest
from click.testing import CliRunner

import cli
from craftkit_archive.errors import RequestError
from tests.worlds import World, load


def _commands(group: click.Command, *path: str) -> list[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        return [path]
    below = [word for name, one in group.commands.items() for word in _commands(one, *path, name)]
    return [path, *below] if path else below


def _mistype(word: str) -> str:
    """Leave out a letter in the middle."""
    return word[: len(word) // 2] + word[len(word) // 2 + 1 :]


@pytest.mark.parametrize("words", _commands(cli.main), ids=" ".join)
def test_a_command_with_a_letter_missing_is_suggested(words: tuple[str, ...]) -> None:
    *before, last = words
    done = CliRunner().invoke(cli.main, [*before, _mistype(last)])
    assert done.exit_code == 2
    assert "id you mean" in done.stderr
    assert f"'{last}'" in done.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ((*path, f"--{_mistype(parameter.opts[0][2:])}"), parameter.opts[0])
        for path in _commands(cli.main)
        for parameter in cli.main.commands[path[0]].params
        if len(path) == 1 and isinstance(parameter, click.Option) and len(parameter.opts[0]) > 5
    ],
)
def test_an_option_with_a_letter_missing_is_suggested(words: tuple[str, ...], option: str) -> None:
    done = CliRunner().invoke(cli.main, list(words))
    assert done.exit_code == 2
    # What is left may be another option's beginning, which click takes for that one.
    if "No such option" in done.stderr:
        assert f"'{option}'" in done.stderr


@pytest.mark.parametrize("name", ["nortwind", "Northwind", "NORTHWIND ", "northwnd"])
def test_a_project_that_is_nearly_named_is_suggested(world: World, name: str) -> None:
    with pytest.raises(RequestError, match=r"There is no project '.*'\. Did you mean 'northwind'( or 'southwind')?\?"):
        world.archive.find_project(name)


def test_a_project_without_a_slug_is_suggested_by_its_id(world: World) -> None:
    load(world.archive, world.folder, "projects", [{"id": "p-77", "name": "Überlingen"}])
    with pytest.raises(RequestError, match="Did you mean 'p-77'"):
        world.archive.find_project("überlngen")
    with pytest.raises(RequestError, match="This archive has "):
        world.archive.find_project("quite another")
    with pytest.raises(RequestError, match="There is no project"):
        world.archive.find_project("x" * 100_000)
