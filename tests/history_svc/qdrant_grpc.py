"""What history asks of Qdrant over gRPC, answered by qdrant-client's local mode: a server where there is none.

It has no graph, no quantization and no index; what was asked for of these is kept in `created` and `indexed`. Writes
that are refused, held up or fail are a test's: see `before_upsert`.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import QdrantClient
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server
from qdrant_client.local import payload_value_extractor
from qdrant_client.local.json_path_parser import parse_json_path

# Local mode parses a filter's keys again for each point: half of the time.
payload_value_extractor.parse_json_path = functools.cache(parse_json_path)  # type: ignore[attr-defined]


class QdrantServer:
    """Listens on a free port of this machine until `close`."""

    def __init__(self) -> None:
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
        warnings.filterwarnings("ignore", "Local mode ")
        self.client = QdrantClient(":memory:")
        self.turn = threading.Lock()
        self.created: list[Any] = []
        self.indexed: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.down = False
        self.upserts = 0
        self.before_upsert: Callable[[Any], bool] | None = None
        """Called with each request to write; the write is refused as UNAVAILABLE, and not done, where it says False."""
        self.after_upsert: Callable[[Any], bool] | None = None
        """The same, but once it is done."""
        self._server = grpc.server(ThreadPoolExecutor(8))
        add_CollectionsServicer_to_server(_Collections(self), self._server)  # type: ignore[no-untyped-call]
        add_PointsServicer_to_server(_Points(self), self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self.port}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()
        self.client.close()


class _Collections(CollectionsServicer):
    def __init__(self, server: QdrantServer) -> None:
        self._server, self._client = server, server.client

    def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = self._client.collection_exists(request.collection_name)
        return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=exists))

    def Create(self, request: Any, context: Any) -> Any:
        self._server.created.append(request)
        given = request.HasField("vectors_config")
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config) if given else {}
        return wire.CollectionOperationResponse(result=self._client.create_collection(request.collection_name, vectors))

    def Delete(self, request: Any, context: Any) -> Any:
        return wire.CollectionOperationResponse(result=self._client.delete_collection(request.collection_name))

    def Get(self, request: Any, context: Any) -> Any:
        self._server.headers = dict(context.invocation_metadata())
        info = self._client.get_collection(request.collection_name)
        return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))


class _Points(PointsServicer):
    def __init__(self, server: QdrantServer) -> None:
        self._server, self._client, self._turn = server, server.client, server.turn

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        self._server.indexed[request.field_name] = request.field_index_params
        return _completed()

    def Upsert(self, request: Any, context: Any) -> Any:
        self._fail_if_down(context)
        assert request.wait
        assert request.ordering.type == wire.WriteOrderingType.Strong
        if self._server.before_upsert is not None and not self._server.before_upsert(request):
            context.abort(grpc.StatusCode.UNAVAILABLE, "refused by the test")
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        only = GrpcToRest.convert_filter(request.update_filter) if request.HasField("update_filter") else None
        with self._turn:
            self._client.upsert(request.collection_name, points, update_filter=only)
            self._server.upserts += len(points)
        if self._server.after_upsert is not None and not self._server.after_upsert(request):
            context.abort(grpc.StatusCode.UNAVAILABLE, "refused by the test")
        return _completed()

    def Get(self, request: Any, context: Any) -> Any:
        self._fail_if_down(context)
        with self._turn:
            records = self._client.retrieve(
                request.collection_name,
                [GrpcToRest.convert_point_id(one) for one in request.ids],
                GrpcToRest.convert_with_payload_selector(request.with_payload),
                GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
        return wire.GetResponse(result=[RestToGrpc.convert_retrieved_point(record) for record in records])

    def Delete(self, request: Any, context: Any) -> Any:
        self._fail_if_down(context)
        assert request.wait
        wanted = GrpcToRest.convert_filter(request.points.filter)
        with self._turn:
            self._client.delete(request.collection_name, wanted)
        return _completed()

    def Count(self, request: Any, context: Any) -> Any:
        self._fail_if_down(context)
        with self._turn:
            found = self._client.count(request.collection_name, GrpcToRest.convert_filter(request.filter))
        return wire.CountResponse(result=wire.CountResult(count=found.count))

    def Scroll(self, request: Any, context: Any) -> Any:
        self._fail_if_down(context)
        with self._turn:
            records, offset = self._client.scroll(
                request.collection_name,
                GrpcToRest.convert_filter(request.filter),
                request.limit,
                GrpcToRest.convert_order_by(request.order_by) if request.HasField("order_by") else None,
                GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
                GrpcToRest.convert_with_payload_selector(request.with_payload),
                GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
        points = [RestToGrpc.convert_retrieved_point(record) for record in records]
        following = wire.PointId(uuid=str(offset)) if offset is not None else None
        return wire.ScrollResponse(result=points, next_page_offset=following)

    def QueryBatch(self, request: Any, context: Any) -> Any:
        self._fail_if_down(context)
        with self._turn:
            return wire.QueryBatchResponse(result=[self._query(one) for one in request.query_points])

    def _fail_if_down(self, context: Any) -> None:
        if self._server.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    def _query(self, request: Any) -> Any:
        assert request.params.quantization.rescore
        found = self._client.query_points(
            request.collection_name,
            GrpcToRest.convert_query(request.query),
            using=request.using or None,
            query_filter=GrpcToRest.convert_filter(request.filter),
            limit=request.limit,
            score_threshold=request.score_threshold,
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        return wire.BatchResult(result=[RestToGrpc.convert_scored_point(point) for point in found.points])


def _completed() -> Any:
    return wire.PointsOperationResponse(
        result=wire.UpdateResult(operation_id=0, status=wire.UpdateStatus.Completed), time=0.0
    )
