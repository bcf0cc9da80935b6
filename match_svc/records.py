"""How persons and their pictures lie in the registry: sealed with the key of their store, where there is a vault.

What was written before there was one is read as it is, and sealed beside the work (`mesh.vault.resealing`). Revisions
stay readable, because scripts compare them.
"""

from __future__ import annotations

from poi.v1 import poi_pb2

from mesh.vault import PLAIN, Box


class Records:
    """Reads raise mesh.vault.Unopenable (DATA_LOSS), and google.protobuf.message.DecodeError for what is no record."""

    def __init__(self, box: Box = PLAIN) -> None:
        self._box = box

    def decode(self, store: str, poi_id: str, value: bytes) -> poi_pb2.Poi:
        """A record as the registry keeps it; its revision is the etag."""
        revision, _, content = value.partition(b":")
        poi = poi_pb2.Poi.FromString(self._box.open(store, content, person(poi_id)))
        poi.etag = revision.decode()
        return poi

    def encode(self, store: str, poi_id: str, poi: poi_pb2.Poi) -> bytes:
        """What stands behind the revision, which `poi` must not have for an etag. Raises VaultUnusable."""
        return self._box.seal(store, poi.SerializeToString(), person(poi_id))

    def decode_picture(self, store: str, field: str, value: bytes) -> poi_pb2.ReferenceImage:
        """The picture under this field of the store's hash, without a name."""
        return poi_pb2.ReferenceImage.FromString(self._box.open(store, value, picture(field)))

    def encode_picture(self, store: str, field: str, content: bytes) -> bytes:
        """A serialized ReferenceImage as it is kept. Raises VaultUnusable."""
        return self._box.seal(store, content, picture(field))


def person(poi_id: str) -> bytes:
    """What a record is sealed for: its place."""
    return b"poi/" + poi_id.encode()


def picture(field: str) -> bytes:
    """What a picture is sealed for: its place."""
    return b"picture/" + field.encode()
