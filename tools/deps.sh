#!/usr/bin/env bash
# Install the Debian packages that are missing and say which: tools/deps.sh build [test [full]].
# Names are Debian 12's; Ubuntu 24.04 uses the same ones (not tested there).
set -euo pipefail

build=(gcc cmake ninja-build pkg-config libc6-dev libevent-dev libcurl4-openssl-dev libssl-dev libcjson-dev libyaml-dev
       libsqlite3-dev zlib1g-dev libhiredis-dev libcjose-dev libjansson-dev libexpat1-dev ca-certificates)
test=(g++ clang clang-format libclang-rt-14-dev llvm-14 lld cppcheck python3 git redis-server sqlite3 libsimde-dev)
# Heavy ones whose tests are skipped by name without them. prometheus (for promtool) is 100 MB and, where systemd runs,
# starts a server on port 9090.
full=(prometheus python3-venv slowhttptest debootstrap dpkg-dev file)

wanted=()
for group in "$@"; do
    case $group in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    full) wanted+=("${full[@]}") ;;
    *) echo "tools/deps.sh: '$group' is no group: build, test, full" >&2; exit 2 ;;
    esac
done

missing=()
for package in "${wanted[@]}"; do
    [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "these packages need root; install them, or sudo, first" >&2; exit 1; }
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${as_root[@]}" apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
