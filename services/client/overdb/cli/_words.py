"""Splits a line of the shell or of a transaction script into words.

Words are separated by blanks. A word in double or single quotes may hold blanks and be empty; inside of
quotes, and in bare words, a backslash writes a special character: ``\\n``, ``\\t``, ``\\\\``, ``\\"``,
``\\'``, ``\\ `` and ``\\xNN`` (any byte). ``#`` at the start of a word begins a comment.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0"}


class Word(NamedTuple):
    """One word: its bytes, where it begins (column, from 1), and whether it was quoted."""

    data: bytes
    column: int
    quoted: bool

    @property
    def text(self) -> str:
        """The word as an argument of a command, as the operating system would give it."""
        return os.fsdecode(self.data)


class WordError(Exception):
    """A line that cannot be split; ``column`` says where, from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


def split_words(line: str) -> list[Word]:
    """Return the words of a line. WordError for an open quote or an unknown escape."""
    words: list[Word] = []
    at = 0
    while True:
        while at < len(line) and line[at].isspace():
            at += 1
        if at == len(line) or line[at] == "#":
            return words
        word, at = _word(line, at)
        words.append(word)


def _word(line: str, at: int) -> tuple[Word, int]:
    start = at
    quote = line[at] if line[at] in "\"'" else ""
    at += len(quote)
    data = bytearray()
    while at < len(line):
        character = line[at]
        if character == "\\":
            piece, at = _escape(line, at)
            data += piece
            continue
        if quote and character == quote:
            at += 1
            if at < len(line) and not line[at].isspace():
                raise WordError(at + 1, f"a blank is missing after the closing {quote}")
            return Word(bytes(data), start + 1, True), at
        if not quote and character.isspace():
            break
        data += os.fsencode(character)
        at += 1
    if quote:
        raise WordError(start + 1, f"the quote {quote} is not closed on this line")
    return Word(bytes(data), start + 1, False), at


def _escape(line: str, at: int) -> tuple[bytes, int]:
    """Return what the escape at a backslash stands for, and where the line goes on."""
    following = line[at + 1 : at + 2]
    if following == "x":
        digits = line[at + 2 : at + 4]
        try:
            return bytes.fromhex(digits) if len(digits) == 2 else _no_escape(at), at + 4
        except ValueError:
            _no_escape(at)
    if following in _ESCAPES:
        return _ESCAPES[following], at + 2
    if following and not following.isalnum():
        return os.fsencode(following), at + 2
    return _no_escape(at), at


def _no_escape(at: int) -> bytes:
    raise WordError(
        at + 1, r"unknown escape: use \n, \t, \r, \0, \\, \" or \xNN with two hexadecimal digits"
    )
