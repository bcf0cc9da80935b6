"""Enrols many persons, row by row: a row that cannot be enrolled is answered with its error."""

from __future__ import annotations

import uuid

import structlog
from poi.v1 import poi_pb2
from redis.exceptions import ConnectionError, TimeoutError

from match_svc import profiles
from match_svc.enrolment import Enrolment
from mesh.errors import InvalidArgument, MeshError, Unavailable, to_status
from mesh.interceptors.validation import ValidationInterceptor

_log = structlog.get_logger(__name__)


class Importer:
    """Enrols rows. Any number of streams may use it."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment
        self._contract = ValidationInterceptor()

    async def row(self, row: poi_pb2.ImportPoisRequest) -> poi_pb2.ImportPoisResponse:
        """What becomes of one row. Nothing that is wrong with it is raised."""
        response = poi_pb2.ImportPoisResponse(row_id=row.row_id)
        try:
            self._check(row)
            response.poi.CopyFrom(profiles.basic(await self._enrolment.create(row.request)))
        except MeshError as error:
            response.error.CopyFrom(to_status(error))
        except (ConnectionError, TimeoutError):
            away = Unavailable("the state store cannot be reached", reason="STATE_UNAVAILABLE", retry_after=1.0)
            response.error.CopyFrom(to_status(away))
        except Exception as error:  # one row must not end the import of thousands
            error_id = uuid.uuid4().hex
            _log.error("row_failed", error_id=error_id, exc_info=error)
            unexpected = MeshError(f"internal error {error_id}", metadata={"error_id": error_id})
            response.error.CopyFrom(to_status(unexpected))
        return response

    def _check(self, row: poi_pb2.ImportPoisRequest) -> None:
        """The contract's rules, which the server leaves to us here. Raises InvalidArgument."""
        if not row.HasField("request"):
            raise InvalidArgument(violations=[("request", "is required")])
        self._contract.check(row.request)
