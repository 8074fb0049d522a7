r"""Transactions as text.

    compare                  # all must hold; may be left out
      value a == "1"         # ==, !=, <, >
      version b > 0
      exists c
      missing d
    then                     # runs if they do
      put a "2"
      add n 5
      get b
      delete c
    else                     # runs otherwise; may be left out
      get a

Words are as in ``_words``: quote what holds blanks. Indentation does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from overdb.cli._words import Word, WordError, split_words
from overdb.operations import Add, Compare, Delete, Get, Operation, Put, Sign

_SIGNS: dict[bytes, Sign] = {b"==": "==", b"!=": "!=", b"<": "<", b">": ">"}
_SECTIONS = ("compare", "then", "else")
_NUMBER_MIN, _NUMBER_MAX = -(2**63), 2**63 - 1
_VERSION_MAX = 2**64 - 1


class ScriptError(Exception):
    """A script that cannot be read: where, and what was expected there."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column


@dataclass
class Script:
    """A transaction that was read."""

    compares: list[Compare] = field(default_factory=list)
    then: list[Operation] = field(default_factory=list)
    otherwise: list[Operation] = field(default_factory=list)


class _Line:
    """The words of one line, taken one after the other."""

    def __init__(self, number: int, words: list[Word], end: int) -> None:
        self.number = number
        self._words = words
        self._at = 0
        self._end = end  # column behind the last character

    def take(self, what: str) -> Word:
        """Return the next word; an error that says what is missing if there is none."""
        if self._at == len(self._words):
            raise ScriptError(self.number, self._end, f"expected {what}, the line ends here")
        self._at += 1
        return self._words[self._at - 1]

    def end(self) -> None:
        """Refuse words that are left."""
        if self._at < len(self._words):
            word = self._words[self._at]
            raise self.error(word, f"unexpected {_shown(word)}: nothing may follow on this line")

    def error(self, word: Word, message: str) -> ScriptError:
        """Return the error for a word."""
        return ScriptError(self.number, word.column, message)

    def key(self) -> bytes:
        """Take a key."""
        word = self.take("a key")
        if not word.data:
            raise self.error(word, "a key must not be empty")
        return word.data

    def sign(self) -> Sign:
        """Take an operator."""
        word = self.take("==, !=, < or >")
        sign = None if word.quoted else _SIGNS.get(word.data)
        if sign is None:
            raise self.error(word, f"expected ==, !=, < or >, not {_shown(word)}")
        return sign

    def number_between(self, what: str, smallest: int, largest: int) -> int:
        """Take a whole number."""
        word = self.take(what)
        try:
            value = int(word.data)
        except ValueError:
            raise self.error(word, f"expected {what}, not {_shown(word)}") from None
        if not smallest <= value <= largest:
            raise self.error(word, f"{value} is not between {smallest} and {largest}")
        return value


def parse_script(text: str) -> Script:
    """Read a transaction. ScriptError with line and column for what cannot be read."""
    script = Script()
    seen: dict[str, int] = {}
    section = ""
    number = 0
    for number, content in enumerate(text.splitlines(), 1):
        try:
            words = split_words(content)
        except WordError as error:
            raise ScriptError(number, error.column, error.message) from None
        if not words:
            continue
        line = _Line(number, words, len(content) + 1)
        first = line.take("a word")
        name = "" if first.quoted else first.text
        if name in _SECTIONS:
            if name in seen:
                raise line.error(first, f'a second "{name}"; the first is in line {seen[name]}')
            line.end()
            section = name
            seen[name] = number
            continue
        if not section:
            raise line.error(first, f'expected "compare", "then" or "else", not {_shown(first)}')
        _read(script, section, line, first)
        line.end()
    if not (script.then or script.otherwise or script.compares):
        raise ScriptError(max(1, number), 1, 'nothing to do: write a "then" with an operation')
    return script


def _read(script: Script, section: str, line: _Line, first: Word) -> None:
    name = "" if first.quoted else first.text
    if section == "compare":
        compare = _COMPARES.get(name)
        if compare is None:
            expected = "value, version, exists or missing"
            raise line.error(first, f"expected {expected}, not {_shown(first)}")
        script.compares.append(compare(line))
        return
    operation = _OPERATIONS.get(name)
    if operation is None:
        raise line.error(first, f"expected put, get, delete or add, not {_shown(first)}")
    branch = script.then if section == "then" else script.otherwise
    branch.append(operation(line))


def _compare_version(line: _Line) -> Compare:
    key, sign = line.key(), line.sign()
    return Compare.version(key, sign, line.number_between("a version (number)", 0, _VERSION_MAX))


def _add(line: _Line) -> Add:
    return Add(line.key(), line.number_between("a number", _NUMBER_MIN, _NUMBER_MAX))


_COMPARES: dict[str, Callable[[_Line], Compare]] = {
    "value": lambda line: Compare.value(line.key(), line.sign(), line.take("a value").data),
    "version": _compare_version,
    "exists": lambda line: Compare.exists(line.key()),
    "missing": lambda line: Compare.missing(line.key()),
}
_OPERATIONS: dict[str, Callable[[_Line], Operation]] = {
    "put": lambda line: Put(line.key(), line.take("a value").data),
    "get": lambda line: Get(line.key()),
    "delete": lambda line: Delete(line.key()),
    "add": _add,
}


def _shown(word: Word) -> str:
    return '"' + word.data.decode(errors="backslashreplace") + '"'
