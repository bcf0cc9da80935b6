"""The end of the story: a person asks to be forgotten."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Final

from poi.v1 import erasure_pb2, erasure_pb2_grpc
from rich.console import Console
from rich.table import Table

from demo.keep import DIRECTORY
from demo.material import Person
from demo.steps import Steps
from mesh import names
from mesh.auth import Role
from mesh.erasure import receipts
from mesh.local import Mesh

RECEIPT: Final = "erasure-receipt.json"
KEY: Final = "erasure-receipt-key.pem"
_WHO: Final = "data protection officer"
_PLAN_SECONDS: Final = 60.0
_ERASE_SECONDS: Final = 300.0


async def erase(console: Console, mesh: Mesh, steps: Steps, person: Person, photo: bytes | None) -> bool:
    """Shows what there is of a person, erases them everywhere, and verifies the receipt: whether nobody finds them."""
    console.rule(f"{person.display_name} asks to be forgotten")
    store = steps.store
    channel = mesh.connect("audit", Role.ADMIN, subject=_WHO, purpose="the person asked to be forgotten")
    stub: erasure_pb2_grpc.ErasureServiceAsyncStub = erasure_pb2_grpc.ErasureServiceStub(channel)
    try:
        request = erasure_pb2.ErasePersonRequest(
            parent=names.store(store),
            person=erasure_pb2.ErasedPerson(poi=names.poi(store, person.poi_id)),
            validate_only=True,
        )
        plan = await stub.ErasePerson(request, timeout=_PLAN_SECONDS)
        _show(console, "The plan: what there is", plan.traces)
        # A camera may show them still: what came since the plan goes as well.
        request.validate_only, request.plan, request.allow_newer = False, plan.plan, True
        request.request_id = str(uuid.uuid4())
        with console.status("erasing"):
            done = await stub.ErasePerson(request, timeout=_ERASE_SECONDS)
        if done.state != erasure_pb2.ERASURE_STATE_DONE:
            for obstacle in done.obstacles:
                console.print(f"not erased: {obstacle.keeper}: {obstacle.reason}", style="red", markup=False)
            return False
        key = await stub.GetReceiptKey(erasure_pb2.GetReceiptKeyRequest(name=f"{names.store(store)}/receiptKey"))
    finally:
        await channel.close()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    receipt, public = DIRECTORY / RECEIPT, DIRECTORY / KEY
    receipt.write_bytes(receipts.as_file(done.receipt))
    public.write_text(key.pem)
    content = receipts.verify(receipt.read_bytes(), public.read_bytes())
    removed = sum(one["count"] for one in content["removed"])
    console.print(f"Erased everywhere: {removed} traces. The signed receipt verifies: {receipt}", markup=False)
    for one in content["stays"]:
        console.print(f"  stays: {one['kind']}: {one['reason']}", style="dim", markup=False, soft_wrap=True)
    found = (await steps.search(person, photo)).total_size
    how = "photo" if photo is not None else "embedding"
    console.print(
        f"A search by their {how} finds {'nothing' if not found else f'{found} appearances'}.",
        style="" if not found else "red",
    )
    return not found


def _show(console: Console, title: str, traces: Iterable[erasure_pb2.TraceCount]) -> None:
    kinds: Counter[tuple[str, str]] = Counter()
    for trace in traces:
        kinds[trace.keeper, trace.kind] += trace.count
    table = Table("kept by", "what", "count", title=title, title_justify="left")
    for (keeper, kind), count in kinds.items():
        table.add_row(keeper, kind, str(count))
    console.print(table)
