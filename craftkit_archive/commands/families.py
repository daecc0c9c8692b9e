"""The commands of the program by name; each is imported, with its module, when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

from craftkit_archive.commands.configuring import name_variables
from craftkit_archive.commands.options import take_everywhere


class Families(MutableMapping[str, click.Command]):
    """A lazy `click.Group.commands`: all modules of commands together take longer to import than click itself.

    Args:
        places: The module and the name of each command, such as `upkeep.init`, in the order of the help.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self._places = dict(places)
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _, attribute = self._places[name].partition(".")
            command: click.Command = getattr(import_module(f"craftkit_archive.commands.{module}"), attribute)
            self[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        name_variables(command, name)
        take_everywhere(command, name)
        self._places.setdefault(name, "")
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._loaded.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
