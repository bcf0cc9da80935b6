"""Page tokens."""

from __future__ import annotations

from typing import Any

import pytest

from mesh import pages
from mesh.errors import InvalidArgument


def test_a_token_goes_with_its_query(pb: Any) -> None:
    query = pb.SayRequest(text="hello", page_size=10)
    token = pages.encode({"after": ["a", 1.5, None]}, query)
    assert token.isascii()
    following = pb.SayRequest(text="hello", page_size=99, page_token=token)
    assert pages.decode(token, following) == {"after": ["a", 1.5, None]}
    assert pages.decode("", query) == {}
    assert query.page_size == 10, "the request is not changed"


def test_a_token_of_another_query_or_a_damaged_one(pb: Any) -> None:
    query = pb.SayRequest(text="hello")
    token = pages.encode({"after": 1}, query)
    wrong = [(token, pb.SayRequest(text="other")), (token, pb.Item()), (token[:-4], query), ("A" + token[1:], query)]
    for text, request in [*wrong, ("!!!!", query), ("ä", query), ("abcd", query), ("abc", query)]:
        with pytest.raises(InvalidArgument) as caught:
            pages.decode(text, request)
        assert [field for field, _ in caught.value.violations] == ["page_token"]


@pytest.mark.parametrize("state", [{}, [], [1], None, 7, "x", {"at": "1"}, {"at": None}, {"at": 1.5}, {"at": 2**63}])
def test_a_forged_token_is_refused_as_a_token(pb: Any, state: Any) -> None:
    query = pb.SayRequest(text="hello")
    with pytest.raises(InvalidArgument) as caught:
        pages.decode(pages.encode(state, query), query, at=pages.whole)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_what_a_token_holds_is_read_as_what_it_is_used_as(pb: Any) -> None:
    query = pb.SayRequest(text="hello")
    token = pages.encode({"at": 7, "like": 0.5, "id": "00ff", "name": "a"}, query)
    read = pages.decode(token, query, at=pages.whole, like=pages.number, id=bytes.fromhex, name=pages.text)
    assert read == {"at": 7, "like": 0.5, "id": b"\x00\xff", "name": "a"}


def test_clamp() -> None:
    assert [pages.clamp(size, 50, 1000) for size in (0, 1, 1000, 5000)] == [50, 1, 1000, 1000]
    with pytest.raises(InvalidArgument):
        pages.clamp(-1, 50, 1000)
