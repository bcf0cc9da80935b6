#!/bin/sh
# Resolve pyproject.toml for every platform and every Python from 3.11 on. The development lock agrees with the runtime one.
set -eu
cd "$(dirname "$0")/.."

resolve() {
    .venv/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"
}

resolve --output-file requirements.lock
resolve --output-file requirements-dev.lock --group dev --constraint requirements.lock
