"""Names, page tokens, cursors and what WebSocket clients say: short texts that come back from clients."""

from __future__ import annotations

from contextlib import suppress

import orjson
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from poi.v1 import poi_pb2

from mesh import errors, names, pages
from tests.fuzz.target import Finding, Target

_PARSERS = [getattr(names, name) for name in sorted(vars(names)) if name.startswith("parse_")]
_QUERY = poi_pb2.ListPoisRequest(parent="stores/store-1")
_FIELDS = {"before": pages.whole, "at": pages.number, "id": bytes.fromhex, "name": pages.text}
_STATE = {"before": 1, "at": 0.5, "id": "00ff", "name": "x"}


def _names(text: str) -> None:
    for parse in _PARSERS:
        try:
            ids = parse(text)
        except errors.InvalidArgument as error:
            if error.reason != "INVALID_NAME" or not error.violations:
                raise Finding("not the error that is documented") from error
            continue
        if getattr(names, parse.__name__.removeprefix("parse_"))(*ids) != text:
            raise Finding(f"{text!r} is not what its parts make")


def _token(token: str) -> None:
    try:
        pages.decode(token, _QUERY, **_FIELDS)
    except errors.InvalidArgument as error:
        if error.reason != "INVALID_PAGE_TOKEN":
            raise Finding("not the error that is documented") from error


def make() -> Target:
    """Each input as a text, as the state of a forged token, and as the status that another server answers with."""

    def test(data: bytes) -> None:
        text = data.decode(errors="replace")
        _names(text)
        _token(text)
        with suppress(orjson.JSONDecodeError):
            _token(pages.encode(orjson.loads(data), _QUERY))
        try:
            status = status_pb2.Status.FromString(data)
        except DecodeError:
            return
        errors.to_status(errors.from_status(status))

    refusals = (errors.InvalidArgument(violations=[("a", "b")]), errors.Unavailable("x", retry_after=1.0))
    return Target(
        test,
        [
            *(names.reference("s", "p", "r").encode(), names.delivery("s", "t", "d").encode()),
            *(orjson.dumps(_STATE), pages.encode(_STATE, _QUERY).encode()),
            *(errors.to_status(each).SerializeToString() for each in refusals),
        ],
        largest=4096,
    )
