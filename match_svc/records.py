"""How persons and their pictures lie in the registry: sealed with the key of their store, where there is a vault.

What was written before there was one is read as it is, and sealed when it is next changed. Revisions stay readable,
because scripts compare them.
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
        poi = poi_pb2.Poi.FromString(self._box.open(store, content, _person(poi_id)))
        poi.etag = revision.decode()
        return poi

    def encode(self, store: str, poi_id: str, poi: poi_pb2.Poi) -> bytes:
        """What stands behind the revision, which `poi` must not have for an etag. Raises VaultUnusable."""
        return self._box.seal(store, poi.SerializeToString(), _person(poi_id))

    def decode_picture(self, store: str, field: str, value: bytes) -> poi_pb2.ReferenceImage:
        """The picture under this field of the store's hash, without a name."""
        return poi_pb2.ReferenceImage.FromString(self._box.open(store, value, _picture(field)))

    def encode_picture(self, store: str, field: str, picture: bytes) -> bytes:
        """A serialized ReferenceImage as it is kept. Raises VaultUnusable."""
        return self._box.seal(store, picture, _picture(field))


def _person(poi_id: str) -> bytes:
    return b"poi/" + poi_id.encode()


def _picture(field: str) -> bytes:
    return b"picture/" + field.encode()
