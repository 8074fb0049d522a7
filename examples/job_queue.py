"""A job queue: every job is claimed by exactly one worker, whatever is retried or dies meanwhile."""

import argparse
import asyncio

from overdb import Client, Transaction


async def claim(client: Client, worker: str) -> bytes | None:
    async def take(t: Transaction) -> bytes | None:
        async for job in t.scan(prefix=b"todo/", limit=1):
            name = job.key.removeprefix(b"todo/")
            t.delete(job.key)  # it is still there at the commit, or this runs again
            t.put(b"claimed/" + name, worker.encode())
            return name
        return None

    return await client.run(take)


async def work(client: Client, worker: str) -> list[bytes]:
    jobs = []
    while (job := await claim(client, worker)) is not None:
        jobs.append(job)  # and do it
    return jobs


async def main(endpoint: str) -> None:
    async with Client(endpoint) as client:
        await asyncio.gather(*(client.put(b"todo/%02d" % n, b"") for n in range(10)))
        for jobs in await asyncio.gather(*(work(client, f"worker {n}") for n in range(3))):
            print(f"{len(jobs)} jobs:", *(job.decode() for job in jobs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="localhost:7400")
    asyncio.run(main(parser.parse_args().endpoint))
