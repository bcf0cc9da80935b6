"""The compiled contracts as a FileDescriptorSet, which Envoy translates JSON by."""

from __future__ import annotations

from google.api import httpbody_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from mesh.xds.resources import CONTRACT_FILES


def descriptor_set() -> bytes:
    """All contracts, what they import (before them), and what an error's details are made of; serialised."""
    found: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name not in found:
            for needed in file.dependencies:
                visit(needed)
            found[file.name] = file

    for file in (*CONTRACT_FILES, httpbody_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        visit(file)
    files = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(files.file.add())
    return files.SerializeToString(deterministic=True)
