"""Objects that hold connections: neither copied nor pickled."""

from __future__ import annotations

from typing import NoReturn


class Uncopied:
    """Refuses ``copy``, ``deepcopy`` and ``pickle``, and says what to do instead."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: half a client is none."""
        raise TypeError(
            f"an overdb {type(self).__name__} holds connections and cannot be copied or pickled: "
            "make a Client where it is used, in each process"
        )
