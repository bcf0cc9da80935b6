"""What a server grants its clients: metadata, connections and pings as channel options, and how many calls may be open.

Whoever asks for more is refused, and nobody else is: memory stays bounded. (Messages: `max_message_bytes`, which gRPC
holds against what a message has unpacked to as well.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

METADATA_BYTES: Final = 16 << 10
"""Of a request's metadata, tokens and traces included; a request with more is RESOURCE_EXHAUSTED. Between gRPC's two
limits (8 and 16 KiB), requests are refused at random."""
STREAMS_PER_CONNECTION: Final = 1024
"""Calls of one connection that are open; with more HTTP/2 makes its client wait."""
OPEN_CALLS: Final = 4096
"""Streams that are open in one server, of whatever connection, and as many other calls (mesh.interceptors.open_calls).
A stream on which nothing happens takes 32 KB: 130 MB in all."""
PEOPLES_CALLS: Final = 3072
"""Of those, what all people and clients have together (mesh.shares): the mesh's own services find room all the same."""
SHARE: Final = 256
"""Of those, what one person or client may have: a console has a handful, a program that serves many some hundreds."""
SERVICE_SHARE: Final = 2048
"""... one service of the mesh, all its replicas together, as they have one SPIFFE id."""
ADDRESS_SHARE: Final = 2048
"""... one address, where callers are not asked who they are. A gateway may be there, or a machine with everything."""
REQUEST_SECONDS: Final = 30.0
"""In which the one request of a unary call or a server stream must have come: 8 MiB at 2.2 Mbit/s."""
RECEIVING: Final = 128
"""Of those, how many a server receives at once (mesh.receiving), each of `max_message_bytes` at most: 1 GiB in all."""
RECEIVING_SHARE: Final = 16
"""... of one caller; the next ones wait until one of them has come."""
SLOW_SECONDS: Final = 1.0
"""What takes longer makes room, the oldest of who has most first, where somebody waits and those 128 are all taken."""
WINDOW_BYTES: Final = 256 << 10
"""What a call may send while nobody reads: a few batches of a stream, so that the next is here when it is asked for."""

OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
    # gRPC would give a fast client windows of 32 MiB. Who waits for a message lets all of it come, whatever the window.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # Who connects and says nothing, or has had nothing to ask for so long, makes room; clients come back by themselves.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # Clients ping every 20 s (mesh.channels); whoever goes on to ping faster than this is sent away.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 3),
)
