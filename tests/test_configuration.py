"""The configuration file: what it sets, what it refuses and how, and that no secret is kept or shown."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

import cli
from craftkit_archive.commands.configuring import configure, option_table, settings, template, variables
from craftkit_archive.configuration import FILE, Configuration, find_file, line_of, read_configuration, schema
from craftkit_archive.errors import RequestError
from craftkit_archive.records import Setting
from tests.worlds import ROOT, Done, command, fill

OPTIONS = option_table(cli.main)


def write(folder: Path, text: str) -> Path:
    """Write a configuration."""
    file = folder / FILE
    file.write_text(text)
    return file


def uncommented(lines: list[str]) -> str:
    """Take away the `#` before each setting of a template."""
    return "\n".join(re.sub(r"^#(?=[^ ])", "", line) for line in lines)


def every_option(table: Any = OPTIONS, keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the keys of each option of each command."""
    found: list[tuple[str, ...]] = []
    for name, kind in table.items():
        found += every_option(kind, (*keys, name)) if isinstance(kind, dict) else [(*keys, name)]
    return found


def shown(configuration: Configuration) -> dict[tuple[str, ...], Setting]:
    """Return what `config show` says of each option."""
    return {(*one.command.split(), one.option): one for one in settings(cli.main, configuration)}


# --- what it sets ----------------------------------------------------------------------------------------------------


def test_the_template_sets_every_option_once_its_signs_are_taken_away(tmp_path: Path) -> None:
    text = uncommented(list(template(cli.main)))
    document = tomllib.loads(text)
    # [nightly] has more settings than options, and so a text of its own.
    assert set(every_option(document)) == {keys for keys in every_option() if keys[0] != "nightly"}
    configuration = read_configuration(write(tmp_path, text), OPTIONS)
    for keys, setting in shown(configuration).items():
        if keys[0] == "nightly":
            continue
        value: Any = document
        for key in keys:
            value = value[key]
        line = int((setting.origin or "").rpartition(":")[2])
        assert text.split("\n")[line - 1].startswith(f"{keys[-1]} = "), keys
        assert setting.value is not None or value in ("", [""], [])


def test_each_option_has_a_variable_of_its_own() -> None:
    of_commands = variables(cli.main) - {"CRAFTKIT_ARCHIVE_BY", "CRAFTKIT_ARCHIVE_CLUSTER", "S3_PUBLIC_URL"}
    shared = sum(keys[-1] in ("by", "cluster") and keys != ("retention", "due", "by") for keys in every_option())
    assert len(of_commands) + shared == len(every_option())
    assert "CRAFTKIT_ARCHIVE_VERIFY_DUE" in of_commands
    assert all(name == "CRAFTKIT_ARCHIVE" or name.startswith("CRAFTKIT_ARCHIVE_") for name in of_commands)


def test_the_command_line_comes_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    write(path, '[runs.list]\nformat = "csv"\n')

    def first(*words: str, **env: str) -> str:
        done = command("runs", "list", *words, archive=path, env=env)
        assert done.code == 0, done.err
        return done.out.split("\n")[0]

    assert first().startswith("id,")
    assert first(CRAFTKIT_ARCHIVE_RUNS_LIST_FORMAT="json").startswith("{")
    assert first("--format", "table", CRAFTKIT_ARCHIVE_RUNS_LIST_FORMAT="json").startswith("RUN")
    (path / FILE).unlink()
    assert first().startswith("RUN")


def test_a_file_may_name_the_archive_and_paths_begin_at_the_file(tmp_path: Path) -> None:
    world = fill(tmp_path)
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "night.toml"
    file.write_text(f'archive = "../{world.archive.path.name}"\n[verify]\nreport = "report.txt"\n')
    for words in (("--config", str(file), "verify"), ("verify", f"--config={file}")):
        assert command(*words).code == 0
        assert (tmp_path / "etc" / "report.txt").exists()
        (tmp_path / "etc" / "report.txt").unlink()
    assert command("verify", env={"CRAFTKIT_ARCHIVE_CONFIG": str(file)}).code == 0


def test_quiet_and_json_of_the_whole_program_can_be_set(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    write(path, "quiet = true\n")
    assert command("verify", archive=path) == Done(0, "", "")
    write(path, "json = true\n")
    assert json.loads(command("status", archive=path).out.splitlines()[-1])["type"] == "summary"


def test_a_source_has_its_name_on_the_command_line(tmp_path: Path) -> None:
    world = fill(tmp_path)
    new = tmp_path / "new"
    assert command("init", archive=new).code == 0
    (tmp_path / "projects.json").write_text(json.dumps([{"id": "p", "name": "P", "slug": "p"}]))
    write(
        new,
        f'[sources.old]\naddress = "{os.path.relpath(world.archive.store.address, new)}"\n'
        '[sources.files]\nprojects = "../projects.json"\n'.replace('"../projects.json"', '["../projects.json"]'),
    )
    assert command("import", "projects", "files", archive=new).code == 0
    assert "nothing to fetch" in command("fetch", "old", archive=new).err
    for words in (("fetch", "files"), ("import", "renders", "files"), ("import", "projects", "old")):
        done = command(*words, archive=new)
        assert done.code == 2
        assert f"'{words[-1]}'" in done.err


@pytest.mark.long
def test_options_of_a_bucket_stand_with_its_source(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    write(path, '[sources.b]\naddress = "s3://bucket/p"\nendpoint-url = "http://127.0.0.1:9"\nno-sign-request = true\n')
    done = command("fetch", "b", "--dry-run", archive=path)
    assert "127.0.0.1:9" in done.err


# --- what it refuses -------------------------------------------------------------------------------------------------

REFUSED = [
    ('[verify]\ndeu = "30d"', 2, "Did you mean 'due'?"),
    ('[verify]\n\n# words\ntime_limit = "2h"', 4, "Did you mean 'time-limit'?"),
    ("[verify]\ndue = 30", 2, "expected text in quotes, got 30"),
    ('[verify]\ndue = "soon"', 2, "Invalid duration 'soon'"),
    ('[verify]\nlevel = "deep"', 2, 'expected "size", "digest" or "pdf"'),
    ("[rebuild]\njobs = 0", 2, "a whole number from 1 to 64"),
    ('[verify]\nnew = "yes"', 2, "expected true or false"),
    ("[verfy]\nnew = true", 1, "Did you mean 'verify'?"),
    ("verify = true", 1, "[verify]"),
    ("[keys]\ncreate = 1", 2, "[keys.create]"),
    ('[sources.b]\nadress = "x"', 2, "Did you mean 'address'?"),
    ('[sources]\nb = "x"', 2, "[sources.b]"),
    ('[nightly]\nfetch = ["bucket"]\n[sources.buckets]\naddress = "x"', 2, "Did you mean 'buckets'?"),
    ("[nightly.backup]\nkeep = 3", 1, "directory"),
    ('[nightly]\nbackup = { directory = "x", kep = 1 }', 2, "Did you mean 'keep'?"),
    ('[nightly]\ntime-limit = "soon"', 2, "Invalid duration"),
    ("quiet = 1", 1, "expected true or false"),
    ('[export]\nproject = [\n  "a",\n  3,\n]', 2, "text in quotes"),
]


@pytest.mark.parametrize(("text", "line", "words"), REFUSED)
def test_a_mistake_is_named_with_its_line_and_the_nearest_right_name(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RequestError) as caught:
        configure(click.Context(cli.main), ["--config", str(file), "status"])
    assert str(file) in str(caught.value)
    assert re.search(rf"line {line}\b", str(caught.value)), caught.value
    assert words in str(caught.value)


def test_all_mistakes_are_named_at_once_and_end_with_2(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    file = write(path, '[verify]\ndeu = "1d"\nlevel = 3\n[fetch]\nlimit = -1\n')
    for words in (["status"], ["verify"], ["config", "show"]):
        done = command(*words, archive=path)
        assert done.code == 2
        assert [line.partition(":")[0] for line in done.err.splitlines()[1:]] == ["  line 2", "  line 3", "  line 5"]
    assert command("verify", "--help", archive=path).code == 0
    file.write_text("no toml")
    assert "is not TOML" in command("status", archive=path).err
    file.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in command("status", archive=path).err
    file.unlink()
    file.mkdir()
    assert command("status", archive=path).code == 2
    assert command("--config", tmp_path / "none.toml", "status", archive=path).code == 2


SECRETS = [
    'address = "postgresql://reader:hunter2secret@db/craftkit"',
    'address = "postgresql://db/craftkit?password=hunter2secret"',
    'endpoint-url = "https://user:hunter2secret@s3.example.org"',
    'password = "hunter2secret"',
    'aws_secret_access_key = "hunter2secret"',
    'address = "ck_live_hunter2secret"',
    'profile = "AKIAHUNTER2SECRET000"',
    'api-key = "hunter2secret"',
    'renders = ["a", "https://u:hunter2secret@host/x"]',
]


@pytest.mark.long
@pytest.mark.parametrize("line", SECRETS)
def test_a_secret_is_refused_and_not_shown(tmp_path: Path, line: str) -> None:
    path = fill(tmp_path).archive.path
    write(path, f"[sources.x]\n{line}\n")
    for words in (["status"], ["config", "show"], ["--json", "status"]):
        done = command(*words, archive=path)
        assert done.code == 2
        assert "line 2" in done.err + done.out
        assert "secret" in done.err + done.out
        assert "hunter2" not in (done.err + done.out).lower()


def test_the_file_of_somebody_else_is_used_only_where_it_is_named(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    file = write(path, "quiet = true\n")
    file.chmod(0o666)
    assert "everybody may write it" in command("status", archive=path).err
    assert command("--config", file, "status", archive=path).code == 0
    file.chmod(0o664)
    assert find_file(path) == file
    if os.geteuid() == 0:  # nobody else can give a file away
        os.chown(file, 12345, 12345)
        with pytest.raises(RequestError, match="belongs to another user"):
            find_file(path)


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
VALUES = st.one_of(
    st.integers(),
    st.booleans(),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    st.lists(st.integers(), max_size=3),
)


@given_settings(deadline=None)
@given(
    st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), min_size=1, max_size=4), st.data()
)
def test_the_line_of_a_setting_is_where_it_begins(tables: dict[str, dict[str, Any]], data: st.DataObject) -> None:
    lines: list[str] = []
    places = {}
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        for name, value in values.items():
            lines += ["# words"] * data.draw(st.integers(0, 2))
            places[table, name] = len(lines) + 1
            if isinstance(value, list):
                lines += [f"{name} = [", *(f"  {one}," for one in value), "]"]
            else:
                lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    for keys, line in places.items():
        assert line_of(text, keys) == line


# --- for editors, and for those who look -----------------------------------------------------------------------------


def test_the_schema_takes_what_the_program_takes_and_refuses_what_it_refuses() -> None:
    described = schema(OPTIONS)
    jsonschema.Draft202012Validator.check_schema(described)
    validator = jsonschema.Draft202012Validator(described)
    assert validator.is_valid(tomllib.loads(uncommented(list(template(cli.main)))))
    for text, _, words in REFUSED:
        if "Invalid duration" not in words and "buckets" not in words:  # which takes more than a form
            assert not validator.is_valid(tomllib.loads(text)), text


def test_the_schema_that_is_shipped_is_the_one_that_is_printed() -> None:
    done = command("config", "schema")
    assert json.loads(done.out) == json.loads((ROOT / "docs" / "craftkit-archive.schema.json").read_text())


def test_config_init_writes_a_file_that_sets_nothing_and_replaces_none(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    assert command("config", "init", archive=path).code == 0
    text = (path / FILE).read_text()
    assert tomllib.loads(text) == {}
    done = command("config", "show", archive=path)
    assert (done.code, [line for line in done.out.splitlines()[1:]]) == (0, [])
    assert command("config", "init", archive=path).code == 2
    assert (path / FILE).read_text() == text
    everything = write(tmp_path, uncommented(text.splitlines()))
    assert command("config", "schema", "--config", everything).code in (0, 2)  # two examples exclude each other
    assert command("config", "init", archive=tmp_path / "none").code == 10


@pytest.mark.parametrize("words", [["--config", "NEW", "config", "init"], ["config", "init", "--config=NEW"]])
def test_config_init_writes_the_file_that_is_named_beside_one_that_is_there(tmp_path: Path, words: list[str]) -> None:
    path = fill(tmp_path).archive.path
    write(path, '[verify]\ndue = "30d"\n')
    new = tmp_path / "new.toml"
    words = [word.replace("NEW", str(new)) for word in words]
    assert command(*words, archive=path).code == 0
    text = new.read_text()
    assert "[nightly]" in text
    done = command(*words, archive=path)
    assert (done.code, "new.toml exists" in done.err) == (2, True)
    assert new.read_text() == text
    other = [word.replace("init", "show").replace("new.toml", "none.toml") for word in words]
    assert "No such file" in command(*other, archive=path).err


def test_config_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    path = fill(tmp_path).archive.path
    write(path, '[verify]\n\ndue = "30d"\n[sources.b]\naddress = "../x"\n')
    done = command(
        "config", "show", archive=path, env={"CRAFTKIT_ARCHIVE_SERVE_WORKERS": "3", "CRAFTKIT_ARCHIVE_VERIFI_DUE": "1d"}
    )
    rows = [re.split(r" {2,}", line) for line in done.out.splitlines()[1:]]
    assert ["verify", "due", "30d", f"{path / FILE}:3"] in rows
    assert ["sources.b", "address", "../x", f"{path / FILE}:5"] in rows
    assert ["serve", "workers", "3", "CRAFTKIT_ARCHIVE_SERVE_WORKERS"] in rows
    assert "CRAFTKIT_ARCHIVE_VERIFI_DUE sets nothing" in done.err
    assert "Did you mean CRAFTKIT_ARCHIVE_VERIFY_DUE?" in done.err
    lines = command("--json", "config", "show", archive=path).lines
    assert {"type": "setting", "command": "verify", "option": "level", "value": "digest", "origin": None} in lines
