#!/bin/sh
# Makes the virtual environments of the peers that benchmarks compare with: sh benchmarks/peers.sh [FOLDER [NAME...]]
# One for each benchmarks/peers/NAME.txt (or for those named alone), in FOLDER/NAME; default: .peers in the repository's root.
# torch comes first, in our version: what a peer asks for would else be whatever build is newest. One that is whole is left alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../.peers}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- $(basename -s .txt "$here"/peers/*.txt)
for name in "$@"; do
    wanted=$here/peers/$name.txt
    cmp -s "$wanted" "$folder/$name/installed.txt" && continue
    ${PYTHON:-python3.11} -m venv --clear "$folder/$name"
    "$folder/$name/bin/pip" install --quiet --requirement "$here/../requirements-torch.lock"
    "$folder/$name/bin/pip" install --quiet --requirement "$here/../requirements-torch.lock" --requirement "$wanted"
    cp "$wanted" "$folder/$name/installed.txt"
    echo "$name: $folder/$name"
done
