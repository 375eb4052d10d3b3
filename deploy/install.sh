#!/bin/sh
# Installs the locked packages into a Python environment: deploy/install.sh PYTHON LOCK...
# The same on a laptop, a node and in an image. pip takes no file whose hash the locks do not name, and fetches nothing beside
# them: not even what builds the one package that comes as source (deepspeed), which is therefore installed first.
# torch comes last and unchecked, with what it brings along: which build of it fits depends on the machine.
set -eu
python=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
build=$(mktemp)
trap 'rm -f "$build"' EXIT
sed -n '/^setuptools==/,/[^\\]$/p' "$here/requirements.lock" > "$build"
"$python" -m pip install --quiet --no-deps --require-hashes --requirement "$build"
for lock in "$@"; do set -- "$@" --requirement "$here/$lock" && shift; done
"$python" -m pip install --quiet --no-deps --require-hashes --no-build-isolation "$@"
"$python" -m pip install --quiet --requirement "$here/requirements-torch.lock"
"$python" -m pip check
