#!/usr/bin/env bash
# clang-tidy over every source of ours: tools/tidy.sh BUILD_FOLDER (one that was configured, for compile_commands.json).
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files '*.c' | grep -vE '^tests/|unicode_tables' | xargs -P "$(nproc)" -n 4 clang-tidy -p "${1:-build}" --quiet 2>/dev/null
