"""Acknowledgements leave in the order of arrival, each when all of its message is durable."""

from hypothesis import given
from hypothesis import strategies as st

from ingest_svc.acknowledgements import Acknowledgements
from ingest_svc.mqtt import Token


def test_a_message_waits_for_all_its_parts() -> None:
    acknowledged: list[int] = []
    acknowledgements = Acknowledgements(lambda token: acknowledged.append(token.mid))
    delivery = acknowledgements.open(Token(1, 5, 1))
    delivery.waiting += 2

    acknowledgements.done(delivery)
    acknowledgements.done(delivery)
    assert acknowledged == []
    assert acknowledgements.pending == 1

    acknowledgements.done(delivery)
    assert acknowledged == [5]
    assert acknowledgements.pending == 0


@given(st.permutations(range(12)))
def test_whatever_the_order_of_the_work_the_order_of_arrival_is_kept(finished: list[int]) -> None:
    acknowledged: list[int] = []
    acknowledgements = Acknowledgements(lambda token: acknowledged.append(token.mid))
    deliveries = [acknowledgements.open(Token(1, mid, 1)) for mid in range(12)]
    pending: list[int] = []
    acknowledgements.on_change = pending.append

    for number, index in enumerate(finished, start=1):
        acknowledgements.done(deliveries[index])
        done = set(finished[:number])
        expected = next((mid for mid in range(12) if mid not in done), 12)
        assert acknowledged == list(range(expected))

    assert acknowledgements.count == 12
    assert pending[-1] == 0
