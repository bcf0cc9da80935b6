"""Errors on the wire and back."""

from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mesh import errors


def examples() -> list[errors.MeshError]:
    return [
        errors.InvalidArgument("no face", reason="NO_FACE"),
        errors.InvalidArgument(violations=[("poi.display_name", "must not be empty"), ("poi.severity", "not known")]),
        errors.NotFound("stores/s1/pois/p1"),
        errors.AlreadyExists("stores/s1/pois/p1"),
        errors.FailedPrecondition("another model", reason="MODEL_MISMATCH", metadata={"expected": "a"}),
        errors.OutOfRange("older than the log", reason="CURSOR_EXPIRED"),
        errors.ResourceExhausted("full", retry_after=1.5, reason="QUOTA"),
        errors.Unavailable("no Redis"),
        errors.Draining(),
        errors.Aborted("lost a race"),
        errors.PermissionDenied("operators only"),
        errors.Unauthenticated("who is it"),
        errors.DataLoss("segment 7"),
        errors.DeadlineExceeded("too slow"),
        errors.MeshError("bug"),
    ]


@pytest.mark.parametrize("error", examples(), ids=lambda error: f"{type(error).__name__}-{error.reason}")
def test_every_error_survives_the_wire(error: errors.MeshError) -> None:
    back = errors.from_status(status_pb2.Status.FromString(errors.to_status(error).SerializeToString()))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert str(back) == error.message


def test_every_class_of_the_tree_is_an_example() -> None:
    tree = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.MeshError) and not kind.__name__.startswith("_")
    }
    assert {type(error) for error in examples()} == tree


def test_status_carries_error_info_and_bad_request() -> None:
    status = errors.to_status(errors.InvalidArgument(violations=[("image", "is empty")], reason="NO_IMAGE"))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (status.code, status.message) == (3, "image: is empty")
    assert (info.domain, info.reason) == ("poi-mesh", "NO_IMAGE")
    assert [(item.field, item.description) for item in bad.field_violations] == [("image", "is empty")]


@pytest.mark.parametrize("letters", ["äöü", "abc", "\U0001f600\U0001f601\U0001f602"])
def test_a_status_never_outgrows_http2_trailers(letters: str) -> None:
    field, description, value = tuple(letters)
    worst = errors.InvalidArgument(
        violations=[(f"detections[{row}].{field * 900}", description * 900) for row in range(1000)],
        metadata={f"key{key}": value * 5000 for key in range(100)},
    )
    status = errors.to_status(worst)
    assert len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message.encode()) < 8192
    assert "detections[2]" in str(status)


def test_retryable() -> None:
    assert {type(error).__name__ for error in examples() if error.retryable} == {
        "ResourceExhausted",
        "Unavailable",
        "Draining",
        "Aborted",
        "DeadlineExceeded",
    }


def test_a_status_of_another_server_keeps_its_code_and_text() -> None:
    told = errors.from_status(status_pb2.Status(code=12, message="no such method"))
    assert (type(told), told.code, told.reason) == (errors.MeshError, grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
    assert str(told) == "no such method"


def test_a_failed_call_without_details() -> None:
    call = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="connection refused"
    )
    told = errors.from_rpc(call)
    assert isinstance(told, errors.Unavailable)
    assert told.message == "connection refused"
    assert told.retry_after is None


def test_a_stream_that_a_proxy_has_reset_may_be_opened_again() -> None:
    def failed(details: str, trailers: grpc.aio.Metadata) -> errors.MeshError:
        return errors.from_rpc(
            grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers, details=details)
        )

    text = "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"
    assert failed(text, grpc.aio.Metadata()).retryable
    ours = errors.to_status(errors.MeshError(text)).SerializeToString()
    assert not failed(text, grpc.aio.Metadata(("grpc-status-details-bin", ours))).retryable
    assert not failed("something else", grpc.aio.Metadata()).retryable


def test_what_a_server_that_goes_away_has_cancelled_may_be_sent_again() -> None:
    told = errors.from_status(status_pb2.Status(code=1, message="CANCELLED"))
    assert isinstance(told, errors.Unavailable)
    assert (told.retryable, told.reason) == (True, "CANCELLED")


def test_a_violation_of_the_whole_message_is_told_without_a_field() -> None:
    error = errors.InvalidArgument(violations=[("", "either images or embeddings are needed"), ("parent", "is wrong")])
    assert str(error) == "either images or embeddings are needed; parent: is wrong"


def test_everything_that_is_not_met_is_listed() -> None:
    violations = [("FACE_TOO_SMALL", "images[0]", "30 px"), ("NO_FACE", "images[1]", "shows no face")]

    unmet = errors.FailedPrecondition("too poor", reason="LOW_QUALITY", violations=violations)
    told = errors.from_status(errors.to_status(unmet))

    assert isinstance(told, errors.FailedPrecondition)
    assert (told.reason, told.violations) == ("LOW_QUALITY", violations)


def test_a_garbled_status_of_another_server_is_still_a_status() -> None:
    status = errors.to_status(errors.Unavailable("away", retry_after=2.0))
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")

    read = errors.from_status(status)

    assert isinstance(read, errors.Unavailable)
    assert (read.reason, read.retry_after) == ("UNAVAILABLE", 2.0)
