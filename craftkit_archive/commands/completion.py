"""Completion in bash, zsh and fish: the scripts, where they are installed, and `completion install` and `show`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from craftkit_archive import errors
from craftkit_archive.commands.completing import COMPLETE_VARIABLE
from craftkit_archive.commands.console import OK, Console, standard_output
from craftkit_archive.durable import replaced_when_whole

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = "craftkit-archive"
# A name that is in every script that click generates for this program, and in no other file.
_OURS = "_craftkit_archive_completion"
ASKING_SECONDS = 10.0

# click's own script splits the line at `:` and `=` as bash does, lets the shell expand `*` in a name, and does not
# quote names.
_BASH = """\
%(complete_func)s() {
    local type value quoted
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) printf -v quoted %%q "$value" && COMPREPLY+=("$quoted") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "${1/#\\~/$HOME}" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Quiet(ShellComplete):
    """A shell that gets no completions if an error occurs, because it would print the error into the line."""

    def complete(self) -> str:
        """Return the completions in the form that the shell's script reads."""
        try:
            return super().complete()
        except Exception:  # noqa: BLE001 - the next command reports it
            return ""


class _WholeWord(_Quiet):
    """A shell that replaces the whole word, so that completions of `--option=value` must begin with the option."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return the completions of what was typed so far."""
        found = super().get_completions(args, incomplete)
        option, joined, _ = incomplete.rpartition("=") if incomplete.startswith("-") else ("", "", "")
        for item in found if joined else ():
            if item.type == "plain":
                item.value = f"{option}={item.value}"
        return found


@add_completion_class
class _Bash(_Quiet, BashComplete):
    """Bash, which replaces only the part of a word after its last `=` or `:`."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the whole words of the line, and the one that is being typed."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() and not line.endswith("\\ ") else (words[:-1], "".join(words[-1:]))

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return the completions of what was typed so far."""
        found = super().get_completions(args, incomplete)
        # click has removed the option and its `=`; bash breaks the rest at `=` and `:`.
        value = incomplete.partition("=")[2] if incomplete.startswith("-") else incomplete
        kept = max(value.rfind("="), value.rfind(":")) + 1
        for item in found:
            if item.type == "plain":
                item.value = item.value[kept:]
        return found


@add_completion_class
class _Zsh(_WholeWord, ZshComplete):
    """Zsh."""


@add_completion_class
class _Fish(_WholeWord, FishComplete):
    """Fish."""

    # Only the first comma separates the type of a completion from its value; the value may have commas too.
    source_template = FishComplete.source_template.replace('split ","', 'split -m 1 ","')


class Place(NamedTuple):
    """Where a completion is installed, and what the user still has to do."""

    file: Path
    hint: str


def completion_script(root: click.Command, shell: str) -> str:
    """Return the script by which a shell completes this program."""
    known = get_completion_class(shell)
    if known is None:
        raise RuntimeError(f"click does not know the shell {shell}.")
    return known(root, {}, PROGRAM, COMPLETE_VARIABLE).source().rstrip("\n") + "\n"


def _data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser())


def _bash_place() -> Place:
    named = os.environ.get("BASH_COMPLETION_USER_DIR")
    file = (Path(named) if named else _data_home() / "bash-completion") / "completions" / PROGRAM
    parts = ("/usr/share/bash-completion/bash_completion", "/etc/bash_completion", "/opt/homebrew/etc/bash_completion")
    if any(Path(part).exists() for part in parts):
        return Place(file, "Start a new shell to use it.")
    return Place(
        file,
        "The package bash-completion, which reads this folder, is not installed. Install it, or add this line to"
        f" ~/.bashrc:\n  source {file}",
    )


def _zsh_place() -> Place:
    """Choose a writable folder that zsh searches: one in the user's home, or the site's for root."""
    site = Path("/usr/local/share/zsh/site-functions")
    for folder in _zsh_folders():
        if (folder == site or folder.is_relative_to(Path.home())) and _can_write(folder):
            return Place(
                folder / f"_{PROGRAM}",
                "Start a new shell to use it. If zsh completes nothing at all yet, add this line to ~/.zshrc:\n"
                "  autoload -Uz compinit && compinit",
            )
    folder = _data_home() / "zsh" / "site-functions"
    return Place(
        folder / f"_{PROGRAM}",
        f"zsh does not search this folder yet. Add this line to ~/.zshrc, before compinit if that is there:\n"
        f"  fpath=({folder} $fpath) && autoload -Uz compinit && compinit",
    )


def _zsh_folders() -> list[Path]:
    """Ask zsh which folders it searches, including those that the user's own files add."""
    try:
        done = subprocess.run(
            ["zsh", "-ic", "print -rl -- $fpath"],  # noqa: S607 - the user's own
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASKING_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.decode(errors="replace").splitlines()
    return [Path(line) for line in lines if line.startswith("/")]


def _can_write(folder: Path) -> bool:
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _fish_place() -> Place:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    return Place(home / "fish" / "completions" / f"{PROGRAM}.fish", "Fish uses it from the next prompt on.")


_PLACES: dict[str, Callable[[], Place]] = {"bash": _bash_place, "zsh": _zsh_place, "fish": _fish_place}
_FILES = {"bash": PROGRAM, "zsh": f"_{PROGRAM}", "fish": f"{PROGRAM}.fish"}


def write_completion(script: str, file: Path) -> bool:
    """Write a completion, and return whether the file has changed.

    Raises:
        RequestError: The file exists and was not written by this program.
        NotWritableError, NoSpaceError: The disk refused.
    """
    with errors.disk_errors(file):
        before = file.read_bytes() if file.exists() else b""
        if before == script.encode():
            return False
        if before and _OURS.encode() not in before:
            raise errors.RequestError(f"{file} was not written by this program. Move it away, or give --to DIR.")
        file.parent.mkdir(parents=True, exist_ok=True)
        # Replaced in one step, for a shell that starts meanwhile.
        with replaced_when_whole(file) as new:
            new.write_text(script)
    return True


def _which_shell(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    return value or next(iter(re.findall(r"(bash|zsh|fish)$", os.environ.get("SHELL", ""))), None)


shell_argument = click.argument(
    "shell", type=click.Choice(["bash", "zsh", "fish"]), required=False, callback=_which_shell
)


def _script(context: click.Context, shell: str | None) -> tuple[str, str]:
    if shell is None:
        raise errors.RequestError("SHELL does not name bash, zsh or fish. Name the one that you use after the command.")
    return shell, completion_script(context.find_root().command, shell)


@click.group()
def completion() -> None:
    """Complete commands, options, files, project slugs, run numbers and key ids in bash, zsh or fish."""


@completion.command("install")
@shell_argument
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write it to this folder.  [default: where the shell looks]",
)
@click.pass_context
def install(context: click.Context, shell: str | None, folder: Path | None) -> int:
    """Install the completion where the shell looks for it, and print where that is and what is left to do.

    SHELL is bash, zsh or fish; by default the one that the environment's SHELL names. No other file is changed. Running
    it again brings the completion up to date.
    """
    from craftkit_archive.records import Summary

    console: Console = context.obj
    shell, script = _script(context, shell)
    place = _PLACES[shell]() if folder is None else Place(folder / _FILES[shell], "")
    changed = write_completion(script, place.file)
    console.say(f"Wrote {place.file}." if changed else f"{place.file} is up to date.")
    if place.hint:
        console.say(place.hint)
    details: dict[str, Any] = {"shell": shell, "file": str(place.file), "changed": changed}
    console.close(Summary(command="completion install", outcome="ok", details=details))
    return OK


@completion.command("show")
@shell_argument
@click.pass_context
def show(context: click.Context, shell: str | None) -> int:
    """Print the completion, for a file of your own or for `source <(craftkit-archive completion show bash)`.

    SHELL is bash, zsh or fish; by default the one that the environment's SHELL names.
    """
    from craftkit_archive.records import Summary

    console: Console = context.obj
    shell, script = _script(context, shell)
    if console.json:
        details = {"shell": shell, "script": script}
        console.close(Summary(command="completion show", outcome="ok", details=details))
    else:
        with standard_output() as out:
            out.write(script)
    return OK
