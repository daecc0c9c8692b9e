"""What the program uses of libraries beyond what they promise: it is listed, works, and has an upper bound."""

import ast
import re
import smtplib
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import requires, version
from multiprocessing import current_process
from pathlib import Path
from typing import NamedTuple

import apprise
import msgspec
import psycopg
import pypdfium2
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.session import Session
from click.shell_completion import BashComplete, FishComplete
from obstore.store import MemoryStore
from packaging.requirements import Requirement
from packaging.version import Version
from pikepdf.jbig2 import get_decoder
from sqlite_utils import Database, Migrations

from tests.test_architecture import MODULES
from tests.worlds import ROOT

# --- what has no underscore, and still is no promise -----------------------------------------------------------------


class Reliance(NamedTuple):
    """One thing inside a library: who relies on it, which text in that module does, and whether it still works."""

    library: str
    module: str
    text: str
    works: Callable[[], object]


def _says(problem: type[Exception], raising: Callable[[], object]) -> str:
    with pytest.raises(problem) as caught:
        raising()
    return str(caught.value)


class _Pair(msgspec.Struct):
    size: int


def _names_the_field() -> bool:
    wrong = _says(msgspec.ValidationError, lambda: msgspec.convert({"size": "x"}, _Pair))
    missing = _says(msgspec.ValidationError, lambda: msgspec.convert({}, _Pair))
    return "`$.size`" in wrong and "required field `size`" in missing


def _keeps_migrations() -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        migrations = Migrations("set")
        migrations(name="step")(lambda _: None)
        migrations.apply(Database(connection, execute_plugins=False))
        return connection.execute("SELECT migration_set, name FROM _sqlite_migrations").fetchall() == [("set", "step")]
    finally:
        connection.close()


def _no_server() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"postgresql://127.0.0.1:{taken.getsockname()[1]}/x"
        return _says(psycopg.OperationalError, lambda: psycopg.connect(address))


RELIANCES = [
    Reliance("apprise", "notify.outlets", "service_timeout", lambda: apprise.AppriseAsset(service_timeout=0)),
    Reliance("botocore", "stores.aws", "RefreshableCredentials", lambda: RefreshableCredentials.refresh_needed),
    Reliance("botocore", "stores.aws", "get_scoped_config", lambda: Session.get_scoped_config),
    Reliance("botocore", "stores.aws", "get_config_variable", lambda: Session.get_config_variable),
    Reliance("click", "commands.completion", "COMP_LINE", lambda: BashComplete.source_template),
    Reliance("click", "commands.completion", 'split ","', lambda: 'split ","' in FishComplete.source_template),
    Reliance("msgspec", "decoding", "required field `", _names_the_field),
    Reliance("obstore", "stores.refusals", "Debug source",
             lambda: "\n\nDebug source" in _says(FileNotFoundError, lambda: MemoryStore().get("no"))),
    Reliance("pikepdf", "pdf.readers", "get_decoder().available()", lambda: get_decoder().available),
    Reliance("psycopg", "importer.postgres", "connection failed: ", lambda: "connection failed: " in _no_server()),
    Reliance("pypdfium2", "pdf.readers", "PDFium: ",
             lambda: "PDFium: " in _says(pypdfium2.PdfiumError, lambda: pypdfium2.PdfDocument(b"x"))),
    Reliance("sqlite-utils", "catalog.connection", "_sqlite_migrations", _keeps_migrations),
]  # fmt: skip
# What tests/test_serving_waitress.py holds by name.
ELSEWHERE = {"waitress"}


@pytest.mark.parametrize("one", RELIANCES, ids=lambda one: f"{one.library}-{one.module}")
def test_what_the_program_relies_on_works_and_is_relied_on(one: Reliance) -> None:
    assert one.works()
    assert one.text in MODULES[f"craftkit_archive.{one.module}"].read_text(), "no longer used: take it off the list"


@pytest.mark.parametrize("library", sorted({one.library for one in RELIANCES} | ELSEWHERE))
def test_a_library_that_is_known_from_inside_has_an_upper_bound(library: str) -> None:
    """The bound keeps out the next major version, and for a library before 1.0 the next minor one."""
    needed = [Requirement(line) for line in requires("craftkit-archive") or ()]
    bounds = [one.specifier for one in needed if one.name == library and not re.search("test|bench", str(one.marker))]
    assert bounds, f"setup.py does not name {library}"
    here = Version(version(library))
    next_one = f"{here.major + 1}.0" if here.major else f"0.{here.minor + 1}"
    for bound in bounds:
        assert here in bound
        assert next_one not in bound, f"{library} has no upper bound"


# --- what has an underscore ------------------------------------------------------------------------------------------

# The private attributes of others, by the module that uses them. Those of the standard library have no bound: CI tries
# every version of Python.
PRIVATE: dict[tuple[str, str], Callable[[], object]] = {
    ("server.http", "_map"): lambda: "waitress: held by tests/test_serving_waitress.py",
    ("craftkit_archive.notify.mail", "_host"): lambda: hasattr(smtplib.SMTP(), "_host"),
    ("craftkit_archive.parallel.spawning", "_config"): lambda: hasattr(current_process(), "_config"),
    ("craftkit_archive.parallel.pool", "_processes"): lambda: hasattr(ProcessPoolExecutor(1), "_processes"),
    ("craftkit_archive.parallel.pool", "_pending_work_items"): lambda: hasattr(
        ProcessPoolExecutor(1), "_pending_work_items"
    ),
}
# Underscores that are documented: of named tuples, and os._exit.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}
_PRIVATE = re.compile(r"_[^_]")


def _own_names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines: functions, classes, variables, attributes of `self`, parameters."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


TREES = {name: ast.parse(file.read_text()) for name, file in MODULES.items()}
OWN = {name: _own_names(tree) for name, tree in TREES.items()}


def _private_uses(module: str) -> Iterator[str]:
    """Yield the private attributes and modules that a module uses, and neither its room nor what it imports defines."""
    room = {name for other in MODULES if other.rpartition(".")[0] == module.rpartition(".")[0] for name in OWN[other]}
    reachable = room | {
        name
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ImportFrom) and node.module
        for other in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        for name in OWN.get(other, ())
    }
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute) and node.attr not in reachable:
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            named = node.args[1]
            if isinstance(named, ast.Constant) and named.value not in reachable:
                yield str(named.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "") not in MODULES and node.module != "__future__":
            yield from [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_uses_nothing_private_of_others_that_is_not_listed(module: str) -> None:
    used = {name for name in _private_uses(module) if _PRIVATE.match(name)} - DOCUMENTED
    assert used == {name for user, name in PRIVATE if user == module}


@pytest.mark.parametrize(
    "text",
    [
        "import smtplib; smtplib.SMTP()._inner",
        "import smtplib; smtplib._inner.x",
        "from smtplib import _inner",
        "import smtplib._inner",
        "from smtplib._inner import x",
        "import smtplib; getattr(smtplib, '_inner')",
        "import smtplib; smtplib.SMTP()._inner = 1",
    ],
)
def test_the_search_finds_every_form_of_private_use(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the test above could pass because nothing is ever found."""
    monkeypatch.setitem(TREES, "cli", ast.parse(text))
    assert {name for name in _private_uses("cli") if _PRIVATE.match(name)} == {"_inner"}


@pytest.mark.parametrize("listed", PRIVATE, ids=lambda listed: ".".join(listed))
def test_what_is_private_is_still_there(listed: tuple[str, str]) -> None:
    assert PRIVATE[listed]()


# Hooks that are there to be set.
HOOKS = {
    ("craftkit_archive.parallel.pool", "threading.excepthook"),
    ("server.serve", "logging.Formatter.converter"),
}


def test_nothing_of_others_is_replaced() -> None:
    """No module assigns to an attribute of what it imported, but for the hooks of the standard library."""
    found = set()
    for module, tree in TREES.items():
        imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                base: ast.expr = node
                while isinstance(base, ast.Attribute):
                    base = base.value
                if isinstance(base, ast.Name) and base.id in imported:
                    found.add((module, ast.unparse(node)))
    assert found == HOOKS


# --- the versions of Python ------------------------------------------------------------------------------------------


def test_ci_tries_every_version_of_python_that_the_package_names() -> None:
    tried = re.search(r"\$\{VERSIONS-([\d. ]+)\}", (ROOT / ".ci/run").read_text())
    assert tried
    text = Path(ROOT / "setup.py").read_text()
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    assert named
    assert f'python_requires=">={named[0]}"' in text
    assert tried[1].split()[: len(named)] == named
