"""The errors a service raises, and their form on the wire (`google.rpc.Status`, AIP-193).

    MeshError                 INTERNAL
    ├── InvalidArgument       INVALID_ARGUMENT      BadRequest names each field
    ├── NotFound              NOT_FOUND
    ├── AlreadyExists         ALREADY_EXISTS
    ├── FailedPrecondition    FAILED_PRECONDITION   PreconditionFailure lists what is not met, where that is several
    ├── OutOfRange            OUT_OF_RANGE
    ├── ResourceExhausted     RESOURCE_EXHAUSTED    RetryInfo when the wait is known
    ├── Unavailable           UNAVAILABLE           RetryInfo when the wait is known
    │   └── Draining          UNAVAILABLE           the server is going away: reconnect and resume
    ├── Aborted               ABORTED
    ├── PermissionDenied      PERMISSION_DENIED
    ├── Unauthenticated       UNAUTHENTICATED
    ├── DataLoss              DATA_LOSS
    └── DeadlineExceeded      DEADLINE_EXCEEDED

Services raise; the interceptor in `mesh.interceptors.errors` alone ends an RPC with one. `to_status` is also for
replies that report a status per item.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "poi-mesh"

# A status travels in HTTP/2 trailers (details in base64, the message a second time, percent-encoded), and a client
# drops those above 8 KiB for a RESOURCE_EXHAUSTED of its own: say the first few things, not all of them.
_MAX_TEXT_BYTES = 400  # of UTF-8; percent-encoded, each of them that is not ASCII takes three
_MAX_METADATA_BYTES = 1000
_MAX_VIOLATIONS_BYTES = 2000
_DETAILS_KEY = "grpc-status-details-bin"


class MeshError(Exception):
    """An error with a status code, a stable machine-readable reason and a text for people.

    `reason` is UPPER_SNAKE_CASE and `metadata` holds the few values a program may need: both go into `ErrorInfo`.
    None of them, nor the message, may hold an embedding, an image or a person's name.
    """

    status_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, reason: str = "INTERNAL", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.code = self.status_code

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without a change."""
        return self.code in _RETRYABLE


class InvalidArgument(MeshError):
    """The request is wrong whatever the state of the system. `violations` are (field path, description) pairs."""

    status_code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self,
        message: str = "",
        *,
        violations: Sequence[tuple[str, str]] = (),
        reason: str = "INVALID_ARGUMENT",
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.violations = list(violations)
        text = message or "; ".join(
            # A rule of the message as a whole names no field.
            f"{field}: {description}" if field else description
            for field, description in self.violations[:3]
        )
        super().__init__(text or "the request is not valid", reason=reason, metadata=metadata)


class NotFound(MeshError):
    """A resource with this name does not exist."""

    status_code = grpc.StatusCode.NOT_FOUND

    def __init__(
        self, name: str, *, reason: str = "RESOURCE_NOT_FOUND", metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{name} was not found", reason=reason, metadata={"name": name, **(metadata or {})})


class AlreadyExists(MeshError):
    """A resource with this name exists already."""

    status_code = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, name: str, *, reason: str = "RESOURCE_EXISTS", metadata: dict[str, str] | None = None) -> None:
        super().__init__(f"{name} exists already", reason=reason, metadata={"name": name, **(metadata or {})})


class FailedPrecondition(MeshError):
    """The system is not in the state that the request needs; repeating it does not help.

    `violations` are (type, subject, description) of each thing that is not met, where there may be several.
    """

    status_code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(
        self,
        message: str,
        *,
        reason: str = "FAILED_PRECONDITION",
        violations: Sequence[tuple[str, str, str]] = (),
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.violations = list(violations)
        super().__init__(message, reason=reason, metadata=metadata)


class OutOfRange(MeshError):
    """The request asks for something beyond what is kept; asking for less may work."""

    status_code = grpc.StatusCode.OUT_OF_RANGE

    def __init__(self, message: str, *, reason: str = "OUT_OF_RANGE", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


class _Retry(MeshError):
    """Base of the errors that may say when to come back: `retry_after` in seconds."""

    _reason: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        reason: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason or self._reason, metadata=metadata)
        self.retry_after = retry_after


class ResourceExhausted(_Retry):
    """A quota, a queue or a size limit is used up."""

    status_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    _reason = "RESOURCE_EXHAUSTED"


class Unavailable(_Retry):
    """Something that the request needs cannot be reached now; the same request may be sent again."""

    status_code = grpc.StatusCode.UNAVAILABLE
    _reason = "UNAVAILABLE"


class Draining(Unavailable):
    """This server is shutting down in good order: open the stream again and resume where it ended."""

    _reason = "DRAINING"

    def __init__(self, message: str = "the server is draining: reconnect and resume") -> None:
        super().__init__(message)


class Aborted(MeshError):
    """The request lost a race with another one; read again, then repeat."""

    status_code = grpc.StatusCode.ABORTED

    def __init__(self, message: str, *, reason: str = "ABORTED", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


class PermissionDenied(MeshError):
    """The caller is known and may not do this."""

    status_code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(
        self, message: str, *, reason: str = "PERMISSION_DENIED", metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


class Unauthenticated(MeshError):
    """The caller is not known."""

    status_code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(
        self, message: str, *, reason: str = "UNAUTHENTICATED", metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


class DataLoss(MeshError):
    """Stored data is damaged beyond repair."""

    status_code = grpc.StatusCode.DATA_LOSS

    def __init__(self, message: str, *, reason: str = "DATA_LOSS", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


class DeadlineExceeded(MeshError):
    """The work was not done in the time that was given; it may have happened all the same."""

    status_code = grpc.StatusCode.DEADLINE_EXCEEDED

    def __init__(
        self, message: str, *, reason: str = "DEADLINE_EXCEEDED", metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


_RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def to_status(error: MeshError) -> status_pb2.Status:
    """The error as `google.rpc.Status` with `ErrorInfo`, and the details that its kind has where they apply."""
    number: int = error.code.value[0]
    status = status_pb2.Status(code=number, message=_short(error.message))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        if info.ByteSize() < _MAX_METADATA_BYTES:
            info.metadata[key] = _short(value)
    status.details.add().Pack(info)
    if isinstance(error, InvalidArgument) and error.violations:
        bad = error_details_pb2.BadRequest()
        for field, description in error.violations:
            if bad.ByteSize() < _MAX_VIOLATIONS_BYTES:
                bad.field_violations.add(field=_short(field), description=_short(description))
        status.details.add().Pack(bad)
    if isinstance(error, FailedPrecondition) and error.violations:
        unmet = error_details_pb2.PreconditionFailure()
        for kind, subject, description in error.violations:
            if unmet.ByteSize() < _MAX_VIOLATIONS_BYTES:
                unmet.violations.add(type=kind, subject=_short(subject), description=_short(description))
        status.details.add().Pack(unmet)
    if isinstance(error, _Retry) and error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(max(0.0, error.retry_after) * 1e9))
        status.details.add().Pack(retry)
    return status


def from_status(status: status_pb2.Status) -> MeshError:
    """The error that a `google.rpc.Status` stands for: the inverse of `to_status`, tolerant of other servers."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    unmet = error_details_pb2.PreconditionFailure()
    retry_after: float | None = None
    for detail in status.details:  # Unpack says False, and does nothing, when the detail is of another type
        with suppress(DecodeError):  # what is garbled is left out
            if not any(detail.Unpack(kind) for kind in (info, bad, unmet)) and detail.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    name = code.name
    # Nobody here hears CANCELLED of a call that he gave up himself. A server that is going away says it, of calls that
    # it has not begun yet and of those that outlast its grace.
    if code is grpc.StatusCode.CANCELLED:
        code = grpc.StatusCode.UNAVAILABLE
    kind = Draining if info.reason == Draining._reason else _KINDS.get(code, MeshError)
    # Each class builds its message in its own way; what came over the wire is already built.
    error = kind.__new__(kind)
    MeshError.__init__(error, status.message, reason=info.reason or name, metadata=dict(info.metadata))
    error.code = code
    if isinstance(error, InvalidArgument):
        error.violations = [(violation.field, violation.description) for violation in bad.field_violations]
    if isinstance(error, FailedPrecondition):
        error.violations = [(each.type, each.subject, each.description) for each in unmet.violations]
    if isinstance(error, _Retry):
        error.retry_after = retry_after
    return error


def from_rpc(error: grpc.aio.AioRpcError) -> MeshError:
    """What a client's failed call means, with reason and violations where the server sent them."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):
                return from_status(status_pb2.Status.FromString(value))
    code, message = error.code(), error.details() or ""
    if code is grpc.StatusCode.INTERNAL and "RST_STREAM" in message:
        # A proxy that has lost the server behind a stream can but reset it. (Our servers' errors have details.)
        code = grpc.StatusCode.UNAVAILABLE
    number: int = code.value[0]
    return from_status(status_pb2.Status(code=number, message=message))


def _short(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MAX_TEXT_BYTES:
        return text
    return encoded[: _MAX_TEXT_BYTES - len("…".encode())].decode(errors="ignore") + "…"


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_KINDS: dict[grpc.StatusCode, type[MeshError]] = {
    kind.status_code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        OutOfRange,
        ResourceExhausted,
        Unavailable,
        Aborted,
        PermissionDenied,
        Unauthenticated,
        DataLoss,
        DeadlineExceeded,
    )
}
