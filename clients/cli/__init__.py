"""The `poi` command line: enrol people, watch and answer alerts, investigate, and look after the servers.

Run it as `python -m clients.cli`. `session` reaches the servers and reports what fails, `options` and `output` are what
the commands share, and each other module holds the commands of one service.
"""

import os

# gRPC's core writes of connections that break to the terminal, in its own words; the command says it in its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
