#!/usr/bin/env bash
# One file to put behind an address and start anywhere: tools/engine_bundle.sh ENGINE FILE. It is a shell script with the
# engine behind it, and with those libraries that Debian has as shared objects alone; glibc is the system's. Started, it
# unpacks itself once, beside itself, and becomes the engine.
set -euo pipefail
engine=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/engine"
cp "$engine" "$work/engine/spillway-engine"
strip --strip-debug "$work/engine/spillway-engine"
size=$(stat -c %s "$work/engine/spillway-engine") most=$((32 << 20)) # with the CUDA backend and its runtime in it
[ "$size" -le $most ] || { echo "engine_bundle: the engine takes $size bytes, more than $most" >&2 && exit 1; }
env -u LD_PRELOAD ldd "$engine" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE '/(libc|libm|libdl|libpthread|librt|libresolv|ld-linux-x86-64)\.so' |
    while read -r library; do cp -L "$library" "$work/engine/$(basename "$library")"; done || true
# The same bytes from the same engine: no times, no names, in order.
tar -C "$work/engine" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - . | gzip -n -9 >"$work/payload"
sum=$(sha256sum "$work/payload" | cut -c1-16)
cat >"$work/bundle" <<HEAD
#!/bin/sh
# spillway-engine in one file; what follows the line __ENGINE__ is a tar.gz of it.
set -eu
home=\$(cd "\$(dirname "\$0")" && pwd)/.spillway-engine-$sum
if [ ! -x "\$home/spillway-engine" ]; then
    new=\$(mktemp -d "\$home.XXXXXX")
    sed '1,/^__ENGINE__\$/d' "\$0" | tar -xzf - -C "\$new"
    chmod 755 "\$new"
    mv -T "\$new" "\$home" 2>/dev/null || rm -rf "\$new" # somebody else was faster
fi
exec "\$home/spillway-engine" "\$@"
__ENGINE__
HEAD
cat "$work/payload" >>"$work/bundle"
chmod 755 "$work/bundle"
mv "$work/bundle" "$out"
echo "$out: $(stat -c %s "$out") bytes, sha256 $(sha256sum "$out" | cut -d' ' -f1)"
