"""Compile the contracts (proto/ and the third-party ones they stand on) into ./gen.

Produces messages (`*_pb2.py`), services (`*_pb2_grpc.py`) and type stubs for both (`*.pyi`, by mypy-protobuf) as the
packages `poi.v1` and `buf.validate`, and `poi/v1/contracts.binpb`, all contracts with their comments as one
FileDescriptorSet. `google.*` is not generated: the installed protobuf and googleapis-common-protos wheels already hold
it, and a second copy would clash in the descriptor pool.

The new tree replaces the old one only when everything compiled: a broken contract never leaves half a package behind.
"""

from __future__ import annotations

import fcntl
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "proto"
THIRD_PARTY = ROOT / "third_party" / "proto"
GENERATED = ROOT / "gen"
SCRATCH = ROOT / "build"  # same file system as GENERATED, so that the swap is a rename
DESCRIPTORS = "contracts.binpb"
INIT = '"""Generated from the contracts by `make proto`; do not edit."""\n'


def compile_into(out: Path) -> int:
    """Run protoc over all contracts into the empty directory `out`; returns protoc's exit status."""
    contracts = sorted(str(path.relative_to(CONTRACTS)) for path in CONTRACTS.rglob("*.proto"))
    if not contracts:
        sys.exit(f"no .proto file under {CONTRACTS}")
    # The plugins are found beside this interpreter, so that PATH does not matter.
    tools = Path(sys.prefix) / "bin"
    status = protoc.main(
        [
            "protoc",
            f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
            f"--proto_path={CONTRACTS}",
            f"--proto_path={THIRD_PARTY}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet,readable_stubs:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            # With the comments, which the modules leave out: the OpenAPI document quotes them.
            f"--descriptor_set_out={out / DESCRIPTORS}",
            "--include_imports",
            "--include_source_info",
            *contracts,
            "buf/validate/validate.proto",
        ]
    )
    for package in {file.parent for file in out.rglob("*.py")}:
        for folder in (package, *package.parents):
            if folder == out:
                break
            (folder / "__init__.py").write_text(INIT)
            (folder / "py.typed").touch()
    if status == 0:
        (out / DESCRIPTORS).rename(out / "poi" / "v1" / DESCRIPTORS)  # a package's file, found wherever that is
    return int(status)


def main() -> None:
    """Compile, then put the new tree in place of the old one."""
    SCRATCH.mkdir(exist_ok=True)
    # Two makes at once (an editor's and a terminal's) take turns; the lock is on this file, which is always there.
    with Path(__file__).open() as lock, tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh, stale = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        if compile_into(fresh) != 0:
            sys.exit("make proto: protoc refused a contract (see above); ./gen is unchanged")
        if GENERATED.exists():
            GENERATED.rename(stale)
        fresh.rename(GENERATED)
        (GENERATED / ".stamp").touch()


if __name__ == "__main__":
    main()
