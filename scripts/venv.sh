#!/bin/sh
# Create .venv from a Python of 3.11 or newer; nothing to do when it is there. PYTHON=... chooses one.
set -eu
cd "$(dirname "$0")/.."

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! suits .venv/bin/python; then
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        suits "$python" && break
        python=
    done
    if [ -z "$python" ]; then
        echo "make: Python 3.11 or newer is needed (found: $(python3 --version 2>/dev/null || echo none))." >&2
        echo "      Install it, or say where it is: make PYTHON=/path/to/python3.11 ..." >&2
        exit 1
    fi
    # Debian splits venv's own pip off into a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null || scripts/system.sh \
        "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    rm -rf .venv
    "$python" -m venv .venv
fi

# The repository and its compiled contracts are importable without being installed.
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n%s/gen\n' "$PWD" "$PWD" >"$site/poi_mesh.pth"

# The `poi` command.
printf '#!/bin/sh\nexec "$(dirname "$0")/python" -m clients.cli "$@"\n' >.venv/bin/poi
chmod +x .venv/bin/poi
