#!/bin/sh
# Go on with the studies of plan.md: sh docs/studies/run.sh COMMIT FOLDER PYTHON [STUDY ...]
#
# Clones this repository at COMMIT into FOLDER (if it is not there), unpacks what is committed of each study, and runs one study after
# the other in one process of lowest priority. `sh docs/studies/pack.sh FOLDER PYTHON` packs, also while this runs.
#
# CORE_HOURS (20, of the plan) bounds all studies over all sessions: what cells took so far, in stores and packs, is taken off, and the
# kernel ends the process when its processor time reaches the rest; the cell in progress is lost, and the exit status is 3.
set -eu
commit=$1 folder=$2 python=$3
shift 3
studies=${*:-factorial_32 factorial_16 long_32 factorial_64 families_32 plane vit_alpha vit_rates vit_warm_up vit_depth vit_gain vit_small}
hours=${CORE_HOURS:-20}
here=$(cd "$(dirname "$0")/../.." && pwd)
kept=$here/examples/paper/data

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
  left=$(PYTHONPATH="$here/src" "$python" "$here/docs/studies/core_hours.py" "$hours" "$folder")
  echo "$(date '+%F %T') $study, $left of $hours core hours' seconds left"
  if [ "$left" -le 0 ]; then
    echo "the $hours core hours of the plan are spent: $study and what follows it are not run" >&2
    exit 3
  fi
  status=0
  (ulimit -t "$left"; exec nice -n 19 "$python" -m criticality sweep run "docs/studies/training/$study.yaml" --out "$store" \
    --workers 0 --json) || status=$?
  if [ "$status" -ge 128 ]; then  # SIGXCPU, or SIGKILL where that is not heard
    echo "ended by signal $((status - 128)) in $study: the core hours are spent, or the process was killed" >&2
    exit 3
  elif [ "$status" -ne 0 ]; then
    exit "$status"
  fi
done
