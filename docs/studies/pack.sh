#!/bin/sh
# Pack the stores of FOLDER, running or not, into examples/paper/data: sh docs/studies/pack.sh FOLDER PYTHON
set -eu
folder=$1 python=$2
kept=$(cd "$(dirname "$0")/../.." && pwd)/examples/paper/data
export PYTHONPATH="$folder/src"
for store in "$folder"/stores/*.zarr; do
  "$python" -m criticality sweep pack "$store" --out "$kept/$(basename "$store").zip"
  "$python" -m criticality sweep status "$store" --json
done
