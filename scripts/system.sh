#!/bin/sh
# Install Debian packages where that is possible without asking: as root, or by sudo without a password.
# Elsewhere say what is missing and stop.
set -eu

if [ "$(id -u)" = 0 ]; then
    sudo=
elif sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    sudo=none
fi

if [ "$sudo" = none ] || ! command -v apt-get >/dev/null; then
    echo "make: these are missing: $*" >&2
    echo "      Install them with this system's package manager (Debian, Ubuntu: sudo apt-get install $*)." >&2
    exit 1
fi

echo "installing $*"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -qq -y --no-install-recommends "$@" >/dev/null
