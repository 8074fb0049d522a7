"""A signup: a name and an address belong to one user, however many sign up at the same moment."""

import argparse

from overdb import Compare, Get, Put
from overdb.sync import Client


def sign_up(client: Client, name: str, email: str) -> str:
    """Take both, or neither; return what is taken already, empty if it worked."""
    by_name, by_email = f"user/{name}".encode(), f"email/{email}".encode()
    done = client.transact(
        compares=[Compare.missing(by_name), Compare.missing(by_email)],
        then=[Put(by_name, email.encode()), Put(by_email, name.encode())],
        otherwise=[Get(by_name), Get(by_email)],
    )  # a lost answer is no problem: it is repeated under the same id, and runs once
    if done.succeeded:
        return ""
    return f"the name {name}" if done.results[0].found else f"the address {email}"


def main(endpoint: str) -> None:
    with Client(endpoint) as client:
        for name, email in (("ann", "a@x.org"), ("ann", "b@x.org"), ("bob", "a@x.org")):
            taken = sign_up(client, name, email)
            print(f"{name}, {email}:", f"{taken} is taken" if taken else "welcome")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="localhost:7400")
    main(parser.parse_args().endpoint)
