"""Options of the command line as settings: their names in the file and the environment, their types, their values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from craftkit_archive.commands.options import resolve_address

if TYPE_CHECKING:
    from craftkit_archive.commands.console import Console
    from craftkit_archive.configuration import Configuration, Keys, SettingTypes
    from craftkit_archive.records import Kind, Setting

PREFIX = "CRAFTKIT_ARCHIVE"
# Options that belong on a command line only.
NOT_CONFIGURED = ("config", "help", "version")


def name_variables(command: click.Command, *path: str) -> None:
    """Give each option its variable in the environment: `verify --due` has CRAFTKIT_ARCHIVE_VERIFY_DUE."""
    for option in _options(command):
        own = "_".join((PREFIX, *path, _key(option))).replace("-", "_").upper()
        if option.envvar is None:
            option.envvar = own
        elif not str(option.envvar).startswith(PREFIX):  # a variable that other programs use too
            option.envvar = [str(option.envvar), own]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            name_variables(inner, *path, name)


def _names_of(option: click.Option) -> list[str]:
    """Return the variables of an option; the first one that is set gives its value."""
    return [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())


def _options(command: click.Command) -> list[click.Option]:
    return [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and option.name not in NOT_CONFIGURED
    ]


def _key(option: click.Option) -> str:
    """Return the name of an option in the file: its longest one, as on the command line."""
    return max(option.opts, key=len).lstrip("-")


def option_table(command: click.Command) -> SettingTypes:
    """Return the options of a command and, in tables, of those below it, with the types of their values."""
    table: dict[str, Any] = {_key(option): _type_of(option) for option in _options(command)}
    if isinstance(command, click.Group):
        table |= {name: option_table(inner) for name, inner in command.commands.items()}
    return table


def _type_of(option: click.Option) -> Any:
    one = _type_of_one(option)
    return list[one] | one if option.multiple else one  # type: ignore[valid-type]


def _type_of_one(option: click.Option) -> Any:
    import msgspec

    kind = option.type
    if option.is_flag:
        return bool
    if isinstance(kind, click.Choice):
        return Literal[tuple(kind.choices)]
    if isinstance(kind, click.IntRange):
        return Annotated[int, msgspec.Meta(ge=kind.min, le=kind.max)]
    return {click.INT: int, click.FLOAT: float}.get(kind, str)


def given_globals(words: list[str]) -> tuple[Path, Path | None]:
    """Return the archive and the configuration that a command line names, before or after the command.

    They are needed before click parses the line, because they determine its defaults. The last of several counts.
    """
    found = {"--archive": os.environ.get(PREFIX) or None, "--config": os.environ.get(f"{PREFIX}_CONFIG") or None}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            break
        if name in found:
            found[name] = value if equals else next(rest, None)
    archive, config = found["--archive"], found["--config"]
    return Path(archive or "data"), None if config is None else Path(config)


def configure(context: click.Context, words: list[str]) -> Configuration | None:
    """Read the configuration that a command line names or its archive has, and make it the defaults of all commands.

    Raises:
        RequestError: It cannot be read, or something in it is wrong.
    """
    archive, named = given_globals(words)
    # Usually there is no file: then this look is all, without the imports below, which take longer than the rest of a
    # small command.
    if named is None and not os.path.exists(os.path.join(archive, "craftkit-archive.toml")):  # noqa: PTH110, PTH118
        return None
    from craftkit_archive.configuration import find_file, read_configuration

    file = named or find_file(archive)
    if file is None or (_writes_one(words) and not file.exists()):
        return None
    configuration: Configuration = read_configuration(file, option_table(context.command))
    context.default_map = _defaults(context.command, configuration, configuration.options, ())
    return configuration


def _writes_one(words: list[str]) -> bool:
    """Return whether a command line is `config init`, which writes the file that --config names."""
    return ("config", "init") in pairwise(word for word in words if not word.startswith("-"))


def _defaults(
    command: click.Command, configuration: Configuration, given: Mapping[str, Any], keys: Keys
) -> dict[str, Any]:
    """Return values in the form that click takes: by parameter name, and with absolute paths."""
    from craftkit_archive.errors import RequestError

    defaults: dict[str, Any] = {}
    for option in _options(command):
        key = _key(option)
        if key not in given or option.name is None:
            continue
        value = given[key]
        try:
            defaults[option.name] = _as_click(option, value, configuration)
        except click.BadParameter as error:
            at = (*keys, key)
            raise RequestError(
                f"{configuration.file}, line {configuration.line(at)}: {key}: {error.message}"
            ) from error
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if name in given:
                defaults[inner.name or name] = _defaults(inner, configuration, given[name], (*keys, name))
    return defaults


def _as_click(option: click.Option, value: Any, configuration: Configuration) -> Any:
    if option.is_flag:
        return value if option.is_bool_flag or not value else option.flag_value
    values = value if isinstance(value, list) else [value]
    single = not isinstance(value, list) and not option.multiple
    if isinstance(option.type, click.Path):
        values = [one if one == "-" else configuration.place(one) for one in values]
    else:
        values = [option.type.convert(one, option, None) for one in values]
    return values[0] if single else values


def settings(command: click.Command, configuration: Configuration, keys: Keys = ()) -> Iterator[Setting]:
    """Yield the value that each option has if the command line does not give it."""
    from craftkit_archive.records import Setting

    context = click.Context(command, info_name=keys[-1] if keys else None)
    for option in _options(command):
        key = _key(option)
        at = (*keys, key)
        value, origin = option.value_from_envvar(context), _variable(option)
        if value is None:
            value = configuration.option(at)
            origin = None if value is None else f"{configuration.file}:{configuration.line(at)}"
        if value is None:
            value = option.get_default(context)
        yield Setting(command=" ".join(keys), option=key, value=plain(value), origin=origin)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from settings(inner, configuration, (*keys, name))


def _variable(option: click.Option) -> str | None:
    return next((name for name in _names_of(option) if os.environ.get(name)), None)


def plain(value: Any) -> str | None:
    """Return a value in the form of the command line or the file; None if there is none."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or None
    if isinstance(value, (bool, int, float, str, Path)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return None


def variables(command: click.Command) -> set[str]:
    """Return the environment variables of all options."""
    found = {name for option in _options(command) for name in _names_of(option)}
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            found |= variables(inner)
    return found


def template(command: click.Command, keys: Keys = ()) -> Iterator[str]:
    """Yield the lines of a configuration with every option: settings after `#`, descriptions after `# `."""
    import textwrap

    options = _options(command) if keys != ("nightly",) else []  # it has a table of its own
    if options:
        yield ""
        if keys:
            yield f"# {' '.join(keys)}: {command.get_short_help_str(100)}"
            yield f"#[{'.'.join(keys)}]"
        for option in options:
            yield from textwrap.wrap(f"# {option.help or ''}", 118, subsequent_indent="#   ")
            yield f"#{_key(option)} = {_example(option)}"
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from template(inner, (*keys, name))


def _example(option: click.Option) -> str:
    """Return an example value for the file: the default, or one of the right form."""
    import msgspec

    value: Any = option.get_default(click.Context(click.Command(None)))
    if option.is_flag:
        return "false"
    if plain(value) is None or callable(value):
        value = EXAMPLES.get(option.type.name, "")
        if isinstance(option.type, click.Choice):
            value = option.type.choices[0]
        elif isinstance(option.type, click.IntRange):
            value = option.type.min
    value = str(value) if isinstance(value, Path) else value
    return msgspec.json.encode([value] if option.multiple and not isinstance(value, (list, tuple)) else value).decode()


EXAMPLES = {"SIZE": "100M", "DURATION": "30d", "SHARE": "5%", "DAILY|SIZE": "daily"}


def resolve_source(console: Console, name: str, **service: str | None) -> str:
    """Return the address of a source: that of the named source in the configuration, or the name itself.

    Args:
        console: The console, which has the configuration.
        name: The name or address on the command line.
        service: Options of the command line about the service of a bucket; they override the configuration.

    Raises:
        RequestError: The source has files of metadata and no address, or an option does not apply to its address.
    """
    source = None if console.configuration is None else console.configuration.sources.get(name)
    if source is None or console.configuration is None:
        return resolve_address(name, **service)
    if source.address is None:
        from craftkit_archive.errors import RequestError

        raise RequestError(f"The source {name!r} has files of metadata and no address. Use it with import.")
    own = {
        "profile": source.profile,
        "region": source.region,
        "endpoint_url": source.endpoint_url,
        "no_sign_request": "true" if source.no_sign_request else None,
    }
    own |= {option: value for option, value in service.items() if value is not None}
    address = source.address if "://" in source.address else console.configuration.place(source.address)
    return resolve_address(address, **own)


def resolve_metadata(console: Console, kind: Kind, names: Sequence[str]) -> list[str]:
    """Return files and databases of metadata, with named sources of the configuration resolved.

    Raises:
        RequestError: A source has no metadata of this kind.
    """
    resolved: list[str] = []
    for name in names:
        source = None if console.configuration is None else console.configuration.sources.get(name)
        if source is None or console.configuration is None:
            resolved.append(name)
            continue
        resolved += source.metadata(name, kind, console.configuration)
    return resolved
