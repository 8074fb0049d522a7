"""Messages as they stand in a scenario's trace."""

from __future__ import annotations

from overdb_node.raft.messages import (
    Answer,
    Append,
    Chunk,
    ChunkAnswer,
    Message,
    Offer,
    OfferAnswer,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)


def describe(message: Message) -> str:
    """A message as it stands in a trace; entries as ``term.index``."""
    words = [type(message).__name__, f"t{message.term}"]
    if not isinstance(message, VoteRequest | VoteAnswer | TimeoutNow):
        words.append(f"r{message.round}")
    match message:
        case VoteRequest():
            words.append(f"last {message.last_term}.{message.last_index}")
            words += ["pre"] * message.pre + ["transfer"] * message.transfer
        case VoteAnswer():
            words += ["granted" if message.granted else "denied"] + ["pre"] * message.pre
        case Append():
            texts = " ".join(f"{e.term}.{e.index}" for e in message.entries)
            words.append(f"from {message.first_index} [{texts}] commit {message.leader_commit}")
        case Answer():
            ok = "ok" if message.ok else "refused"
            words.append(f"{ok} at {message.agreed_term}.{message.agreed}")
        case Offer():
            words.append(f"S{message.element_term}.{message.index}, {message.size} bytes")
        case OfferAnswer():
            words.append(f"S{message.element_term}.{message.index}, send from {message.send_from}")
        case Chunk():
            end = message.offset + len(message.data)
            name = f"S{message.element_term}.{message.index}"
            words.append(f"{name}, bytes {message.offset}-{end} of {message.size}")
        case ChunkAnswer():
            words.append(f"S{message.element_term}.{message.index}, next {message.next_offset}")
        case TimeoutNow():
            pass
    return " ".join(words)
