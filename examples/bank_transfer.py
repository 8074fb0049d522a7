"""A bank transfer: two accounts, wherever they live, change together or not at all."""

import argparse

from overdb import Put
from overdb.sync import Client, Transaction


def balance(t: Transaction, name: str) -> int:
    found = t.get(f"account/{name}".encode())
    return int(found.value) if found else 0


def transfer(client: Client, source: str, target: str, amount: int) -> bool:
    def move(t: Transaction) -> bool:  # called again when another transfer was in between
        if balance(t, source) < amount:
            return False
        t.put(f"account/{source}".encode(), b"%d" % (balance(t, source) - amount))
        t.put(f"account/{target}".encode(), b"%d" % (balance(t, target) + amount))
        return True

    return client.run(move)


def main(endpoint: str) -> None:
    with Client(endpoint) as client:
        client.transact(then=[Put(b"account/ann", b"100"), Put(b"account/bob", b"0")])
        for amount in (30, 80):
            done = "moved" if transfer(client, "ann", "bob", amount) else "not enough"
            print(f"{amount} from ann to bob: {done}")
        with client.transaction() as t:  # both at one version
            print("ann has", balance(t, "ann"), "and bob has", balance(t, "bob"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="localhost:7400")
    main(parser.parse_args().endpoint)
