"""The configuration file: defaults for every option, named sources, and the steps of a night.

It is TOML 1.0, read with `tomllib`, which does not report on which line a value is; `line_of` finds that.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from craftkit_archive.errors import RequestError
from craftkit_archive.notify.settings import Notify
from craftkit_archive.records import Kind
from craftkit_archive.values import DATABASE_SCHEME, mask

FILE = "craftkit-archive.toml"
# A larger file was probably meant to be something else.
MAX_BYTES = 1_000_000

# A table of the file: its keys, each with the type of its value or with a table of its own.
SettingTypes = Mapping[str, Any]
Keys = tuple[str, ...]


class NamedSource(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A source of metadata or PDFs.

    Either an address (a folder, a bucket, a live API, a `postgresql://` database) or files of metadata.

    Attributes:
        changed: For each kind, the column of its table that holds when a row was changed; nights read only newer rows.
        kinds: The kinds of metadata that nights import from it.
    """

    address: str | None = None
    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    no_sign_request: bool = False
    projects: list[str] = []
    keys: list[str] = []
    renders: list[str] = []
    changed: dict[Kind, str] = {}
    kinds: list[Kind] = msgspec.field(default_factory=lambda: ["projects", "keys", "renders"])

    def files(self, kind: Kind) -> list[str]:
        """Return the files with records of a kind."""
        return {"projects": self.projects, "keys": self.keys, "renders": self.renders}[kind]

    def metadata(self, name: str, kind: Kind, configuration: "Configuration") -> list[str]:
        """Return the files with records of a kind, or the address of the database that has them.

        Raises:
            RequestError: The source has no records of that kind.
        """
        if files := self.files(kind):
            return [configuration.place(file) for file in files]
        if self.address is None or not DATABASE_SCHEME.match(self.address):
            raise RequestError(f'The source {name!r} has no {kind}. Add {kind} = ["FILE"] to it, or name a file.')
        return [self.address]


class Backups(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Where backups of the catalog are written, and how many are kept."""

    directory: str
    keep: Annotated[int, msgspec.Meta(ge=1)] = 14


class Nightly(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The steps of a night, in this order; a step that is not set here is not run."""

    import_: list[str] = msgspec.field(default=[], name="import")
    fetch: list[str] = []
    verify: bool = True
    report: list[str] = []
    due: bool = True
    backup: Backups | None = None
    seal: bool = False
    head: bool = False
    page: str = "night.html"


class Configuration(msgspec.Struct, kw_only=True, frozen=True):
    """A checked configuration.

    Attributes:
        file: Its path; None if there is no file.
        text: Its content.
        options: Values for options, by command and option, as nested tables.
    """

    file: Path | None = None
    text: str = ""
    options: dict[str, Any] = {}
    sources: dict[str, NamedSource] = {}
    nightly: Nightly | None = None
    notify: Notify = Notify()

    def place(self, path: str) -> str:
        """Return a path from the file as an absolute one: a relative path is relative to the file's folder."""
        return path if self.file is None else os.path.join(self.file.parent.absolute(), path)  # noqa: PTH118

    def option(self, keys: Keys) -> Any:
        """Return the value of an option; None if it is not set."""
        value: Any = self.options
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return None if isinstance(value, dict) else value

    def others(self) -> Iterator[tuple[Keys, Any]]:
        """Yield the settings that are not options, such as sources and the night."""
        yield from _leaves({name: value for name, value in tomllib.loads(self.text).items() if name in OWN_TABLES}, ())

    def line(self, keys: Keys) -> int | None:
        """Return the line on which a key is set, from 1."""
        return line_of(self.text, keys)


OWN_TABLES = ("sources", "nightly", "notify")


def _leaves(value: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*keys, name))
    else:
        yield keys, value


class SettingFault(NamedTuple):
    """A mistake in the file, and the key it is at."""

    keys: Keys
    text: str


def find_file(archive: Path) -> Path | None:
    """Return the path of an archive's configuration, if there is one that can be trusted.

    It can name commands to run and services to contact. So a file that belongs to another user, such as in an archive
    on a borrowed disk, is used only if it is named with --config.

    Raises:
        RequestError: It belongs to another user, or everybody may write it.
    """
    file = archive / FILE
    try:
        status = file.stat()
    except OSError:  # if there is no archive either, the command reports that
        return None
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        whose = "everybody may write it" if status.st_mode & stat.S_IWOTH else "it belongs to another user"
        raise RequestError(
            f"{file} was not read, because {whose}. Change its owner and mode, or name it with --config {file}."
        )
    return file


def read_configuration(file: Path, options: SettingTypes) -> Configuration:
    """Read and check a configuration.

    Args:
        file: A TOML file.
        options: The options of the program and, in nested tables, of its commands, each with the type of its value.

    Raises:
        RequestError: It cannot be read, or has mistakes; the message names the line of each, and similar names.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise RequestError(f"{file} has more than {MAX_BYTES:,} bytes. Name a configuration file.")
        text = file.read_bytes().decode("utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise RequestError(f"Cannot read the configuration {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"The configuration {file} is not UTF-8. Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"The configuration {file} is not TOML: {mask(str(error))}.") from error
    faults = list(_faults(document, {**options, **_own_tables(document, options)}, ()))
    if not faults:
        try:
            return Configuration(
                file=file,
                text=text,
                options=_options_in(document, options),
                sources=msgspec.convert(document.get("sources", {}), dict[str, NamedSource]),
                nightly=_read_night(document, options.get("nightly", {})),
                notify=_read_table(document.get("notify", {}), "notify", Notify),
            )
        except _FaultError as error:
            faults = [error.fault]
    shown = "\n".join(f"  line {line_of(text, fault.keys)}: {fault.text}" for fault in faults)
    raise RequestError(f"The configuration {file} has {_several(len(faults), 'mistake')}:\n{shown}")


class _FaultError(Exception):
    def __init__(self, fault: SettingFault) -> None:
        self.fault = fault


T = TypeVar("T")


def _read_table(table: dict[str, Any], name: str, kind: type[T]) -> T:
    """Return a table as its structure. Types were checked before; further errors begin with the name of the setting."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at `$")
        keys = (name, *filter(None, inner.rstrip("`").split(".")), text.partition(":")[0])
        raise _FaultError(SettingFault(keys, text.replace("Object", "the table").replace("`", ""))) from error


def _options_in(document: dict[str, Any], options: SettingTypes) -> dict[str, Any]:
    """Return the part of a document that sets options, which some keys of [nightly] do."""
    found = {name: value for name, value in document.items() if name in options}
    if "nightly" in found:
        found["nightly"] = {name: value for name, value in found["nightly"].items() if name in options["nightly"]}
    return found


def _read_night(document: dict[str, Any], options: SettingTypes) -> Nightly | None:
    own = {name: value for name, value in document.get("nightly", {}).items() if name not in options}
    if "nightly" not in document:
        return None
    night = _read_table(own, "nightly", Nightly)
    known = document.get("sources", {})
    for step, names in (("import", night.import_), ("fetch", night.fetch)):
        for name in names:
            if name not in known:
                raise _FaultError(SettingFault(("nightly", step), f"there is no source {name!r}{_meant(name, known)}"))
    return night


def _own_tables(document: Mapping[str, Any], options: SettingTypes) -> SettingTypes:
    """Return the tables that hold more than options; every source of the file has a table."""
    sources = document.get("sources")
    names = sources if isinstance(sources, dict) else ()
    night = {**options.get("nightly", {}), **fields_of(Nightly)}
    return {"sources": dict.fromkeys(names, fields_of(NamedSource)), "nightly": night, "notify": fields_of(Notify)}


def fields_of(struct: type[msgspec.Struct]) -> SettingTypes:
    """Return the fields of a structure as a table of types."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def _faults(value: Any, table: SettingTypes, keys: Keys) -> Iterator[SettingFault]:
    if not isinstance(value, dict):
        yield SettingFault(keys, f"{keys[-1]} is a table: write [{'.'.join(keys)}] and its settings below")
        return
    for name, inner in value.items():
        at = (*keys, name)
        if secret := _secret(name, inner):
            yield SettingFault(at, secret)
        elif name not in table:
            where = f"[{'.'.join(keys)}] has no setting {name!r}" if keys else f"there is no setting {name!r}"
            yield SettingFault(at, f"{where}{_meant(name, table)}")
        elif isinstance(table[name], Mapping):
            yield from _faults(inner, table[name], at)
        elif isinstance(inner, dict) and (nested := _nested(table[name])) is not None:
            yield from _faults(inner, fields_of(nested), at)
        else:
            try:
                msgspec.convert(inner, table[name])
            except msgspec.ValidationError:
                yield SettingFault(at, f"{name}: expected {_described(table[name])}, got {_shown(inner)}")


def _nested(expected: Any) -> type[msgspec.Struct] | None:
    """Return the structure in a type such as `Backups | None`; None if it has none."""
    kinds = getattr(expected, "__args__", (expected,))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)


def _meant(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name.replace("_", "-").lower(), known, n=1)
    near = near or [one for one in known if one.startswith(name) or name.startswith(one)][:1]
    return f". Did you mean {near[0]!r}?" if near else ""


_SECRET_NAME = re.compile(r"pass(word|wd|phrase)|secret|token|credential|private|(api|access)[-_]?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"""ck_(?:live|test|acct)_\w          # an API key
      | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b     # an access key of AWS
      | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY
      | [a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@     # a password in an address
      | [?&;](?:password|sslpassword|token|api_?key|sig|signature|x-amz-signature)=[^&\s]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def _secret(name: str, value: Any) -> str | None:
    """Return a message if a setting looks like a secret, without quoting any of it."""
    if isinstance(value, dict):
        return None
    texts = value if isinstance(value, list) else [value]
    if _SECRET_NAME.search(name) or any(isinstance(text, str) and _SECRET_VALUE.search(text) for text in texts):
        return (
            f"{name} looks like a secret, and this file must not hold one. Remove it, and give the secret in the"
            " environment, in a file that a variable …_FILE names, or as a systemd credential"
        )
    return None


def line_of(text: str, keys: Keys) -> int:
    """Return the line, from 1, on which a setting begins; if it is not set, that of the nearest table around it."""
    places = _places(text)
    while keys and keys not in places:
        keys = keys[:-1]
    return places.get(keys, 1)


# Cached, because a file may have several errors, and each asks for its line.
@lru_cache(maxsize=2)
def _places(text: str) -> dict[Keys, int]:
    """Return the line on which each table and each setting begins.

    `tomllib` does not keep positions, but it can parse the first n lines of a file: a setting is on the line after the
    longest valid beginning that does not have it. Each table is parsed by itself, because 700 lines would take a second
    otherwise.
    """
    places: dict[Keys, int] = {}
    lines = text.split("\n")
    first = valid = 0
    for count in range(1, len(lines) + 1):
        if lines[count - 1].lstrip().startswith("[") and valid == count - 1:
            first = valid
        try:
            document = tomllib.loads("\n".join(lines[first:count]))
        except tomllib.TOMLDecodeError:
            continue
        for keys in _paths(document, ()):
            places.setdefault(keys, valid + 1)
        valid = count
    return places


def _paths(value: Any, keys: Keys) -> Iterator[Keys]:
    if keys:
        yield keys
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from _paths(inner, (*keys, name))


TEMPLATE = """
# Sources of metadata and PDFs. Commands accept the name of a source too: fetch bucket.
# Do not put passwords here: PostgreSQL takes them from ~/.pgpass, S3 from the AWS files.
#[sources.bucket]
#address = "s3://craftkit-renders"
#endpoint-url = "https://s3.example.org"
#profile = "archive"
#[sources.database]
#address = "postgresql://reader@db.example.org/craftkit"
# The column that holds when a row was changed: nights then read only newer rows.
#changed = { projects = "updated_at", renders = "updated_at" }
#[sources.files]
#projects = ["/srv/incoming/projects.ndjson"]
#renders = ["/srv/incoming/renders.ndjson"]

# The steps of `craftkit-archive nightly`, in this order; a step that is not set here is not run.
#[nightly]
#import = ["database", "files"]
#fetch = ["bucket"]
#verify = true
#report = ["reports/latest.html"]
# List the renders that are due by the retention rules. Nothing is disposed of.
#due = true
#backup = { directory = "/backups", keep = 14 }
#seal = true
#head = true
#page = "night.html"
# The verification ends when the night has taken this long.
#time-limit = "6h"

# Whom to notify of how a night ended: docs/notify.md says what they receive, and where passwords and tokens are kept.
# `craftkit-archive notify test` sends everybody a test.
#[notify]
#when = "problems"
#ping = "https://hc-ping.com/2f3c9a1e/archive"
#webhook = "https://hooks.example.org/archive"
#command = ["/usr/local/bin/tell", "--room", "ops"]
#apprise = false
#timeout = "20s"
#[notify.mail]
#host = "mail.example.org"
#port = 587
#security = "starttls"
#user = "archive"
#sender = "The archive <archive@example.org>"
#to = ["ops@example.org"]
"""


def schema(options: SettingTypes) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration, for editors."""
    night = {**options.get("nightly", {}), **fields_of(Nightly)}
    tables = {**options, "sources": dict[str, NamedSource], "nightly": night, "notify": Notify}
    from inspect import cleandoc  # imported here, because only one command needs it

    made = msgspec.json.schema(_struct("Configuration", tables))
    for described in made["$defs"].values():
        # From 3.13 on, Python itself strips the indentation of docstrings.
        if "description" in described:
            described["description"] = cleandoc(described["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FILE, **made}


def _struct(name: str, table: SettingTypes) -> type[msgspec.Struct]:
    fields = [
        (
            key.replace("-", "_") + "_",
            _struct(f"{name}_{key}", kind) if isinstance(kind, Mapping) else kind,
            msgspec.field(default=msgspec.UNSET, name=key),
        )
        for key, kind in table.items()
    ]
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True)


def _described(kind: Any) -> str:
    """Describe the values that a setting may have."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _either([f'"{choice}"' for choice in arguments])
    if origin is Annotated:
        meta = arguments[1]
        if meta.ge is None:
            return _described(arguments[0])
        return f"a whole number {f'from {meta.ge} to {meta.le}' if meta.le is not None else f'of at least {meta.ge}'}"
    if origin is list:
        one = _described(arguments[0])
        return "an array of texts in brackets" if one == _WORDS[str] else f"an array in brackets, each of it {one}"
    if arguments:
        return _either([_described(one) for one in arguments if one is not type(None)])
    return _WORDS.get(kind, "a table")


_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    return msgspec.json.encode(value).decode() if isinstance(value, (bool, int, float, str, list)) else str(value)


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
