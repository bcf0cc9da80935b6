#!/bin/sh
# Contracts must stay compatible with what was published: the main branch, and in CI on main the commit before.
set -eu
cd "$(dirname "$0")/.."

compare() { # $1: how people call it, $2: commit
    if [ -z "$(git ls-tree --name-only "$2" buf.yaml)" ] || [ -z "$(git ls-tree --name-only "$2" proto/)" ]; then
        echo "buf breaking: no contracts in $1 yet, nothing to compare with"
        return 0
    fi
    node_modules/.bin/buf breaking --against "$(git rev-parse --git-common-dir)#ref=$(git rev-parse "$2")" ||
        { echo "buf breaking: not compatible with $1 (see above)" >&2; return 1; }
}

main=
for name in refs/heads/main refs/remotes/origin/main; do
    main=$(git rev-parse --quiet --verify "$name^{commit}") && break
done
if [ -z "$main" ]; then
    echo "buf breaking: there is no main branch here, nothing to compare with"
    exit 0
fi
compare "the main branch" "$main"
if [ -n "${CI:-}" ] && [ "$main" = "$(git rev-parse HEAD)" ] && git rev-parse --quiet --verify 'HEAD~1^{commit}' >/dev/null; then
    compare "the commit before" "HEAD~1"
fi
