"""Transactions as text: what is read, and what each error says."""

from __future__ import annotations

import pytest

from overdb import Add, Compare, Delete, Get, Put
from overdb.cli._words import WordError, split_words
from overdb.cli.console import as_json, as_text
from overdb.cli.txn_script import ScriptError, parse_script

WHOLE = r"""
# moves a token
compare
  value a == "1"
  value "with blank" != x\x00y
  version b > 0
  version b < 12
  exists c
  missing d      # a comment
then
  put a "2"
  put empty ""
  add n 5
  add n -7
  get b
  delete c
else
  get 'single "quoted"'
"""


def test_a_whole_script_is_read() -> None:
    script = parse_script(WHOLE)
    assert script.compares == [
        Compare.value(b"a", "==", b"1"),
        Compare.value(b"with blank", "!=", b"x\0y"),
        Compare.version(b"b", ">", 0),
        Compare.version(b"b", "<", 12),
        Compare.exists(b"c"),
        Compare.missing(b"d"),
    ]
    assert script.then == [
        Put(b"a", b"2"),
        Put(b"empty", b""),
        Add(b"n", 5),
        Add(b"n", -7),
        Get(b"b"),
        Delete(b"c"),
    ]
    assert script.otherwise == [Get(b'single "quoted"')]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "nothing to do"),
        ("\n# only a comment\n", 2, 1, "nothing to do"),
        ("put a 1", 1, 1, 'expected "compare", "then" or "else", not "put"'),
        ("then\n  putt a 1", 2, 3, 'expected put, get, delete or add, not "putt"'),
        ("then\n  put", 2, 6, "expected a key, the line ends here"),
        ("then\n  put a", 2, 8, "expected a value, the line ends here"),
        ("then\n  put a b c", 2, 11, 'unexpected "c": nothing may follow'),
        ('then\n  put "" b', 2, 7, "a key must not be empty"),
        ('then\n  put "a b', 2, 7, 'the quote " is not closed'),
        ('then\n  put "a"b c', 2, 10, "a blank is missing after the closing"),
        (r"then" + "\n" + r"  put a \q", 2, 9, "unknown escape"),
        (r"then" + "\n" + r"  put a \x1", 2, 9, "two hexadecimal digits"),
        (r"then" + "\n" + r"  put a \xzz", 2, 9, "two hexadecimal digits"),
        ("then\n  add n five", 2, 9, 'expected a number, not "five"'),
        ("then\n  add n 9223372036854775808", 2, 9, "9223372036854775808 is not between"),
        ('then\n  "put" a b', 2, 3, "expected put, get, delete or add"),
        ("compare\n  value a = 1", 2, 11, 'expected ==, !=, < or >, not "="'),
        ("compare\n  value a >= 1", 2, 11, "expected ==, !=, < or >"),
        ("compare\n  value a", 2, 10, "expected ==, !=, < or >, the line ends here"),
        ("compare\n  version a > x", 2, 15, "expected a version (number)"),
        ("compare\n  version a > -1", 2, 15, "-1 is not between 0 and"),
        ("compare\n  equals a 1", 2, 3, "expected value, version, exists or missing"),
        ("compare\n  exists a b", 2, 12, "nothing may follow"),
        ("then\n  get a\nthen\n  get b", 3, 1, 'a second "then"; the first is in line 1'),
        ("then now\n  get a", 1, 6, 'unexpected "now"'),
    ],
)
def test_what_cannot_be_read_is_named_with_line_and_column(
    text: str, line: int, column: int, words: str
) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_script(text)
    assert (caught.value.line, caught.value.column) == (line, column), str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"line {line}, column {column}: ")


def test_words_keep_every_byte() -> None:
    assert [word.data for word in split_words(r"\xff 'ü \' x' \\ a\ b \"")] == [
        b"\xff",
        "ü ' x".encode(),
        b"\\",
        b"a b",
        b'"',
    ]
    with pytest.raises(WordError):
        split_words("'open")


@pytest.mark.parametrize(
    ("data", "text", "value"),
    [
        (b"plain", "plain", "plain"),
        ("ü".encode(), "ü", "ü"),
        (b"a\tb\n\\", r"a\tb\n\\", "a\tb\n\\"),
        (b"\xff\0", r"\xff\x00", {"base64": "/wA="}),
        ("ü\x1b[".encode() + b"\xfe", r"ü\x1b[\xfe", {"base64": "w7wbW/4="}),
    ],
)
def test_bytes_are_shown_as_text_and_as_json(data: bytes, text: str, value: object) -> None:
    assert as_text(data) == text
    assert as_json(data) == value
