"""Between processes: errors travel, clients do not and say so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import overdb
import overdb.sync
from overdb import errors
from overdb.errors import OverDBError
from overdb.ids import RequestId

Copy = Callable[[Any], Any]
ID = RequestId(b"x" * 16, 1, 2, 1)


def pickled(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))  # noqa: S301  # what was made here


COPIES = pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy])


@pytest.fixture
def blocking() -> Iterator[overdb.sync.Client]:
    with overdb.sync.Client("127.0.0.1:9") as client:
        yield client


@COPIES
def test_a_client_is_not_copied_and_says_what_to_do(
    copied: Copy, blocking: overdb.sync.Client
) -> None:
    for one in (blocking, overdb.Client("127.0.0.1:9")):
        with pytest.raises(TypeError, match="make a Client where it is used, in each process"):
            copied(one)


@COPIES
def test_a_transaction_is_not_copied_either(copied: Copy, blocking: overdb.sync.Client) -> None:
    with pytest.raises(TypeError, match="make a Client"), blocking.transaction() as transaction:
        copied(transaction)


@COPIES
@pytest.mark.parametrize(
    "error",
    [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, OverDBError)
    ],
)
def test_an_error_stays_what_it_is(copied: Copy, error: type[OverDBError]) -> None:
    if error is overdb.OutcomeUnknown:
        made: OverDBError = overdb.OutcomeUnknown("what happened", request_id=ID)
    else:
        made = error("what happened")
    again = copied(made)
    assert type(again) is error
    assert str(again) == "what happened"
    assert again.code == made.code
    assert vars(again) == vars(made)
