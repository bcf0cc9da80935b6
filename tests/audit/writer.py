"""Run as a script, REDIS_URL NAME: writes records until it is killed, and says which are durable, one a line."""

import asyncio
import sys
from itertools import count

from mesh import redis
from mesh.audit.recorder import Auditor
from tests.audit.support import STORE, a_record


async def main() -> None:
    url, name = sys.argv[1:]
    auditor = Auditor(redis.connect(url), name, "mesh")
    for number in count():
        await asyncio.gather(*(auditor.write(STORE, a_record(f"{name}/{number}/{each}")) for each in range(4)))
        sys.stdout.write(f"{name}/{number}\n")
        sys.stdout.flush()


asyncio.run(main())
