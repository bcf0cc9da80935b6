"""The third-party contracts in this repository are the ones that the installed libraries were built from."""

from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
THIRD_PARTY = ROOT / "third_party" / "proto"
FILES = sorted(str(path.relative_to(THIRD_PARTY)) for path in THIRD_PARTY.rglob("*.proto"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """Every vendored file as protoc reads it, by name."""
    out = tmp_path_factory.mktemp("descriptors") / "third_party.binpb"
    paths = [f"--proto_path={THIRD_PARTY}", f"--proto_path={files('grpc_tools') / '_proto'}"]
    assert protoc.main(["protoc", *paths, f"--descriptor_set_out={out}", *FILES]) == 0
    return {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """protoc states the derived JSON name of every field in a descriptor set, and leaves it out of generated code."""
    stripped = FileDescriptorProto()
    stripped.CopyFrom(file)
    messages = list(stripped.message_type)
    while messages:
        message = messages.pop()
        messages.extend(message.nested_type)
        for field in (*message.field, *message.extension):
            field.ClearField("json_name")
    for field in stripped.extension:
        field.ClearField("json_name")
    return stripped


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("google/")])
def test_google_contracts_are_those_of_the_installed_package(
    name: str, compiled: dict[str, FileDescriptorProto]
) -> None:
    module = import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    descriptor: FileDescriptor = module.DESCRIPTOR
    installed = FileDescriptorProto()
    descriptor.CopyToProto(installed)

    assert without_json_names(compiled[name]) == installed


def test_validation_rules_are_those_that_the_library_enforces(compiled: dict[str, FileDescriptorProto]) -> None:
    from protovalidate._gen.buf.validate import validate_pb

    library = FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    ours = compiled["buf/validate/validate.proto"]
    # Names of packages in other languages: each publisher of the file sets its own.
    ours.ClearField("options")
    library.ClearField("options")

    assert ours == library
    assert {message.name for message in ours.message_type} >= {"FieldRules", "MessageRules", "StringRules"}


def test_rules_of_a_contract_are_enforced_on_generated_messages() -> None:
    from poi.v1 import match_pb2
    from protovalidate import collect_violations

    violations = collect_violations(match_pb2.MatchFacesRequest(parent="not a store"))

    fields = {violation.proto.field.elements[0].field_name for violation in violations if violation.proto.field}
    assert "parent" in fields
