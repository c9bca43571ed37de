#!/bin/sh
# Go on with the studies of plan.md: sh docs/studies/run.sh COMMIT FOLDER PYTHON [STUDY ...]
#
# Clones this repository at COMMIT into FOLDER (if it is not there), unpacks what is committed of each study, and runs one study after
# the other in one process of lowest priority. `sh docs/studies/pack.sh FOLDER PYTHON` packs, also while this runs.
set -eu
commit=$1 folder=$2 python=$3
shift 3
studies=${*:-factorial_32 factorial_16 long_32 factorial_64 families_32}
here=$(cd "$(dirname "$0")/../.." && pwd)
kept=$here/src/criticality/studies/data

if [ ! -d "$folder/.git" ]; then
  git clone -q "$here" "$folder"
  git -C "$folder" checkout -q --detach "$commit"
fi
if [ "$(git -C "$folder" rev-parse HEAD)" != "$(git -C "$here" rev-parse "$commit^{commit}")" ]; then
  echo "$folder must be at $commit, as stores of other code are not mixed" >&2
  exit 2
fi
# glibc would give every temporary back to the system and fault its pages in again: a fifth of the time.
export PYTHONPATH="$folder/src" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=67108864
cd "$folder"
mkdir -p stores
for study in $studies; do
  store=stores/$study.zarr
  if [ ! -d "$store" ] && [ -f "$kept/$study.zarr.zip" ]; then
    nice -n 19 "$python" -m criticality sweep unpack "$kept/$study.zarr.zip" --out "$store"
  fi
  echo "$(date '+%F %T') $study"
  nice -n 19 "$python" -m criticality sweep run "docs/studies/training/$study.yaml" --out "$store" --workers 0 --json
done
