#!/usr/bin/env bash
# Build everything with the scheduler compiled by a profile of itself: tools/build_profiled.sh [FOLDER [CMAKE'S ARGUMENTS]].
# FOLDER is build-profiled where none is named. What is handed out is made by this; tests and daily work use the plain
# release build, which takes half the time. Needs gcc and python3.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build-profiled}
case $folder in -*) echo "usage: tools/build_profiled.sh [FOLDER [CMAKE'S ARGUMENTS]]" >&2; exit 2 ;; esac
shift $(($# > 0))
export CMAKE_C_COMPILER_LAUNCHER= # a cache of objects may not look at the counts beside them

configure() { cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPILLWAY_PROFILE="$1" "${@:2}" >"$log"; }
log=$(mktemp)
trap 'status=$?; [ $status -eq 0 ] || grep -vE '^\[[0-9]+/' "$log" | tail -60 >&2 || true; rm -f "$log"; exit $status' EXIT

echo "build_profiled: 1 of 3, a build that counts"
configure generate "$@"
find "$folder" -name '*.gcda' -delete # of an earlier source
ninja -C "$folder" spillway frontdoor_upstream frontdoor_load >"$log"
echo "build_profiled: 2 of 3, its training"
python3 tools/train_profile.py --build "$folder"
echo "build_profiled: 3 of 3, the build by what was counted"
configure use "$@"
ninja -C "$folder" >"$log"
echo "build_profiled: done: $folder/spillway, $folder/spillway-engine"
