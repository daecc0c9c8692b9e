"""Texts keep to plain English: phrases that read like a translation stay out of docs, docstrings and messages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_architecture import MODULES
from tests.worlds import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*MODULES.values(), *sorted((ROOT / "manual").glob("*.py")), *sorted((ROOT / "release").glob("*.py"))]

# What reads like a translation, and what to write instead.
PHRASES = {
    r"\bmend(?:s|ed|ing)?\b": "fix, repair",
    r"\btold\b": "report, notify, distinguish",
    r"\blacking\b": "missing",
    r"(?<!\bthere )\b(?:is|are|was|were) (?-i:no|none)\b(?! (?:longer|more|less|later|earlier)\b)": "is not a",
    r"\bthat which\b": "what",
    r"\bwho\b[^.;,:]{1,40}\bgets\b": "the one that gets it, by its name",
    r"\b(?:exactly|within|after|at most|for|return) so (?:many|much)\b": "the name of the parameter",
    r"\bin the place of\b": "instead of, replace",
    r"\banew\b": "again, re-",
    r"\b(?:say|says|tell|tells) of (?!the night\b)": "says about, reports",
}
# Names in the catalog that hold one of the words.
NAMES = re.compile(r"\b(?:told INTEGER|told = 1|WHERE told|sentence, state, told)\b|\blacking\b(?= \(| and)")


def _texts(file: Path) -> Iterator[str]:
    """Yield the texts of a file that people read: the prose of a page; strings and comments of a module."""
    text = file.read_text()
    if file.suffix == ".md":
        yield re.sub(r"(?ms)^```.*?^```", "", text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def _translated(text: str) -> list[str]:
    prose = NAMES.sub("", re.sub(r"\s+", " ", re.sub(r"`[^`]*`", "`…`", text)))
    return [
        f"{prose[max(0, found.start() - 40) : found.end() + 20]!r}: write {instead}"
        for phrase, instead in PHRASES.items()
        for found in re.finditer(phrase, prose, re.IGNORECASE)
    ]


@pytest.mark.parametrize("file", [*PAGES, *SOURCES], ids=lambda file: str(file.relative_to(ROOT)))
def test_texts_are_plain_english(file: Path) -> None:
    assert [fault for text in _texts(file) for fault in _translated(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "Run it again to mend the file.",
        "Files are told at the end.",
        "A file that is no PDF.",
        "Three bytes are lacking.",
        "Who asks twice gets both.",
        "Cut it to exactly so many columns.",
        "The file is written\n    anew.",
        "What it says of the disk.",
    ],
)
def test_a_translated_phrase_is_found(text: str) -> None:
    """Without it, the test above could pass because nothing is ever found."""
    assert _translated(text)


@pytest.mark.parametrize("text", ["There is no archive here.", "It is no longer there.", "as many as there are `told`"])
def test_idiomatic_phrases_are_left_alone(text: str) -> None:
    assert not _translated(text)
