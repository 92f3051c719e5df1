#!/usr/bin/env bash
# clang-tidy over every source of ours: tools/tidy.sh BUILD_FOLDER (one that was configured, for compile_commands.json).
# One file per process: clang-tidy 14 carries analyzer state from file to file and reports va_lists that are fine.
# A crash of the tool is that file's failure, told with where it was, and the others are still looked at.
set -euo pipefail
cd "$(dirname "$0")/.."

look() { # BUILD_FOLDER FILE: 1 where there is anything to say
    local said rc=0
    said=$(mktemp)
    clang-tidy -p "$1" --quiet "$2" 2>"$said" || rc=$?
    if [ "$rc" -gt 1 ]; then
        printf '%s: clang-tidy ended with status %d\n' "$2" "$rc"
        sed -n '/^Stack dump/,/^ *#0 0x/p' "$said" | head -20
    fi
    rm -f "$said"
    [ "$rc" = 0 ]
}
export -f look

git ls-files '*.c' | grep -vE '^tests/|unicode_tables' | xargs -P "$(nproc)" -I{} bash -c 'look "$1" "$2"' look "${1:-build}" {}
