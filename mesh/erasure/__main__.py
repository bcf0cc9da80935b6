"""`python -m mesh.erasure`: makes the key that signs receipts of erasures, and verifies a receipt.

init --key FILE              makes the key (mode 600) and FILE.pub, for those who verify
verify RECEIPT --key PUB     exits with 0 where the receipt is what was signed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mesh.erasure import receipts


def main(arguments: Sequence[str]) -> int:
    """Runs a command; 0 when it was done, 1 for a receipt that is not genuine, 2 after one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "init":
            signer = receipts.Signer.create(options.key)
            sys.stdout.write(f"made {options.key} and {options.key}.pub: key {signer.key_id}\n")
            return 0
        content = receipts.verify(options.receipt.read_bytes(), options.key.read_bytes())
    except receipts.NotGenuine as error:
        sys.stderr.write(f"mesh.erasure: {options.receipt}: {error}\n")
        return 1
    except (OSError, ValueError) as error:
        sys.stderr.write(f"mesh.erasure: {error}\n")
        return 2
    sys.stdout.write(f"genuine: {content['name']}, completed {content['completed']}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mesh.erasure", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="makes the key that signs receipts")
    init.add_argument("--key", required=True, type=Path, metavar="FILE")
    verify = commands.add_parser("verify", help="says whether a receipt is what was signed")
    verify.add_argument("receipt", type=Path, metavar="RECEIPT")
    verify.add_argument("--key", required=True, type=Path, metavar="PUB")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
