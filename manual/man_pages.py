"""Man pages, one for each command, made of the help: `python -m manual.man_pages FOLDER`.

Source: man(7) as groff_man(7) and mandoc have it.
"""

import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

import cli
from craftkit_archive import __version__
from craftkit_archive.commands.examples import example_lines
from craftkit_archive.commands.options import GLOBAL_OPTIONS

PROGRAM = cli.PROGRAM


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each page: of the program, and of every command below it."""
    yield from _below(cli.main, click.Context(cli.main, info_name=PROGRAM), ())


def _below(command: click.Command, context: click.Context, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield _name(words), "\n".join(_page(command, context, words)) + "\n"
    for word, below in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
        yield from _below(below, click.Context(below, info_name=word, parent=context), (*words, word))


def _name(words: tuple[str, ...]) -> str:
    return "-".join((PROGRAM, *words))


def _page(command: click.Command, context: click.Context, words: tuple[str, ...]) -> Iterator[str]:
    moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC) if _is_dated() else datetime.now(UTC)
    name = _name(words)
    summary, *rest = _paragraphs(command.help or "")
    yield f'.TH {name.upper()} 1 {moment:%Y-%m-%d} "{PROGRAM} {__version__}" "{PROGRAM}"'
    yield ".SH NAME"
    yield f"{_escaped(name)} \\- {_escaped(_lowered(summary).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_escaped(' '.join((PROGRAM, *words)))}"
    yield from map(_marked, command.collect_usage_pieces(context))
    yield ".SH DESCRIPTION"
    yield _marked(summary)
    for paragraph in rest:
        yield from (".PP", _marked(paragraph))
    yield from _options(command, context)
    if isinstance(command, click.Group):
        yield from _commands(command, words)
    yield from _examples(words)
    if not words:
        yield from _exit_codes()
        yield from _environment()
    yield from _see_also(command, words)


def _is_dated() -> bool:
    return "SOURCE_DATE_EPOCH" in os.environ


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    options = [one for one in command.params if isinstance(one, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield ".SH OPTIONS"
    for names, words in records:
        yield from (".TP", _option_names(names), _marked(words))
    if context.parent is not None:
        yield from (".PP", f"The options of {_bold(PROGRAM)}(1) can stand here too; the last one counts:")
        shown = ["/".join(option(click.Command(None)).params[-1].opts) for option in GLOBAL_OPTIONS]
        yield _sentence(shown)


def _commands(group: click.Group, words: tuple[str, ...]) -> Iterator[str]:
    yield ".SH COMMANDS"
    for word, below in sorted(group.commands.items()):
        yield from (".TP", f"{_bold(_name((*words, word)))}(1)", _marked(_paragraphs(below.help or "")[0]))


def _examples(words: tuple[str, ...]) -> Iterator[str]:
    lines = example_lines(" ".join(words))
    if lines:
        # Not .EX and .EE, which older groffs do not have.
        yield from (".SH EXAMPLES", ".nf", *map(_escaped, lines), ".fi")


def _exit_codes() -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for code, words in cli.EXIT_CODE_WORDS.items():
        yield from (".TP", f"{code}", _marked(words))


def _environment() -> Iterator[str]:
    yield ".SH ENVIRONMENT"
    named: dict[str, str] = {}
    for command in (cli.main, *cli.main.commands.values()):
        for option in command.params:
            if isinstance(option.envvar, str):
                named.setdefault(option.envvar, option.opts[0])
    for variable, opt in sorted(named.items()):
        yield from (".TP", _bold(variable), f"Stands for {_bold(opt)}.")
    yield from (".TP", _bold("CRAFTKIT_API_KEY"), "The key that a live API is asked with.")


def _see_also(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    others = [_name(words[:end]) for end in range(len(words))]
    if isinstance(command, click.Group):
        others += [_name((*words, word)) for word in sorted(command.commands)]
    yield ".SH SEE ALSO"
    yield ",\n".join(f".BR {_escaped(other)} (1)" for other in others).replace(",\n", " ,\n")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.replace("\b", "").strip().split("\n\n")]


def _lowered(sentence: str) -> str:
    """Begin a sentence with a small letter, as the line of NAME does; a name such as PDFs stays."""
    return sentence[0].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence


def _sentence(names: list[str]) -> str:
    return ", ".join(map(_bold, names)) + "."


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR"


def _option_names(text: str) -> str:
    """Set what is typed as it stands in bold, and what stands for a value in italics."""
    parts = re.split(r"([^\s,/]+)", text)
    return "".join(
        (_bold(part) if part.startswith("-") else f"\\fI{_escaped(part)}\\fR") if at % 2 else part
        for at, part in enumerate(parts)
    )


def _marked(text: str) -> str:
    """Set what stands in backticks, and options, in bold."""
    parts = re.split(r"`([^`]+)`|(?<![\w-])(--?[a-z][\w-]*)", text)
    plain, quoted, options = parts[::3], parts[1::3], parts[2::3]
    out = [_escaped(plain[0])]
    for word, option, after in zip(quoted, options, plain[1:], strict=True):
        out += [_bold(word or option), _escaped(after)]
    return _guarded("".join(out))


def _escaped(text: str) -> str:
    """Write a text so that it means itself: no backslash, dash or letter of it is the formatter's."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return _guarded("".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text))


def _guarded(text: str) -> str:
    """Keep a line that begins with a dot from being a request."""
    return f"\\&{text}" if text.startswith((".", "'")) else text


def write_pages(folder: Path) -> list[Path]:
    """Write all pages into a folder, and remove those of commands that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages():
        written.append(folder / f"{name}.1")
        written[-1].write_text(text, encoding="ascii")
    for old in set(folder.glob(f"{PROGRAM}*.1")) - set(written):
        old.unlink()
    return written


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
