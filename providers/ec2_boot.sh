# What an instance does when it boots: fetch the engine and the model, check them, start the engine. Above this stand the
# settings of its pool, NAME='value'. Its own name and the token that lets it in once are tags, read from the metadata
# service, so that all machines of a pool share one launch template.
#
# Whatever fails ends the machine, and so does BOOT_MAX: nobody pays for one that never serves. The SPILLWAY_ variables of
# the environment are for tests; on a machine none of them is set.
set -u
umask 077
root=${SPILLWAY_ROOT:-/var/lib/spillway}
imds=${SPILLWAY_IMDS:-http://169.254.169.254}
end=${SPILLWAY_END:-systemctl poweroff}

say() { echo "spillway: $*" >&2; }
give_up() {
    say "ends the machine: $*"
    $end
    exit 1
}

metadata() { # path; empty and false where there is none
    curl -sf --noproxy '*' --max-time 5 -H "X-aws-ec2-metadata-token: $imds_token" "$imds/latest/meta-data/$1"
}
metadata_open() {
    local i
    for i in 1 2 3 4 5 6 7 8 9 10; do
        imds_token=$(curl -sf --noproxy '*' --max-time 5 -X PUT \
            -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' "$imds/latest/api/token") && return 0
        sleep 2
    done
    return 1
}
tag() { # name; waits for it: tags may come a little later than the machine
    local i value
    for i in 1 2 3 4 5 6 7 8 9 10; do
        value=$(metadata "tags/instance/$1") && [ -n "$value" ] && { echo "$value"; return 0; }
        sleep 1
    done
    return 1
}

is_whole() { # file, sha256
    [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status 2>/dev/null
}
# url, sha256, file: goes on where an earlier try was cut; what does not have the sum is thrown away.
fetch() {
    local part=$3.part try status wait=1
    is_whole "$3" "$2" && return 0
    for try in $(seq 1 30); do
        curl -fsS --proto "$PROTOCOLS" --connect-timeout 10 --speed-limit 1024 --speed-time 30 -C - -o "$part" "$1"
        status=$?
        if is_whole "$part" "$2"; then
            mv "$part" "$3"
            return 0
        fi
        # All there and wrong, or the server cannot go on in the middle: from the start.
        case $status in 0 | 22 | 33 | 36) rm -f "$part" ;; esac
        say "fetch of $(basename "$3") ended with $status (try $try)"
        sleep $wait
        [ $wait -ge 16 ] || wait=$((wait * 2))
    done
    return 1
}

mkdir -p "$root" || give_up "cannot make $root"
cd "$root" || give_up "cannot enter $root"
(sleep "$BOOT_MAX" && [ ! -e "$root/started" ] && { say "not started after $BOOT_MAX s"; $end; }) </dev/null >/dev/null 2>&1 &
watchdog=$!

metadata_open || give_up "no answer from the metadata service"
name=$(tag spillway-name) || give_up "no tag spillway-name"
set -- serve --host "${SPILLWAY_HOST:-0.0.0.0}" --port "$PORT" --notices "${SPILLWAY_IMDS:-ec2}"
if [ -n "$JOIN_URL" ]; then
    tag spillway-join >"$root/join-token" || give_up "no tag spillway-join"
    # Without a word from its scheduler it ends itself, and with it the machine: see below.
    set -- "$@" --join "$JOIN_URL" --join-token-file "$root/join-token" --name "$name" --state-dir "$root" --dead-man 10m
fi
if [ -n "$ENGINE_URL" ]; then
    ENGINE=$root/spillway-engine
    fetch "$ENGINE_URL" "$ENGINE_SHA256" "$ENGINE" || give_up "the engine could not be fetched"
    chmod 700 "$ENGINE"
fi
if [ -n "$MODEL_URL" ]; then
    MODEL=$root/model.gguf
    fetch "$MODEL_URL" "$MODEL_SHA256" "$MODEL" || give_up "the model could not be fetched"
fi
set -- "$@" --model "$MODEL"
[ -z "$ALIAS" ] || set -- "$@" --alias "$ALIAS"
# Words without blanks: the pool's own arguments.
# shellcheck disable=SC2086
set -- "$@" $ARGUMENTS

touch "$root/started"
kill "$watchdog" 2>/dev/null
if [ -n "${SPILLWAY_ROOT:-}" ]; then
    exec "$ENGINE" "$@"
fi
# Ended kindly (drained, or its scheduler was silent for too long) or failed five times: the machine ends with it.
systemd-run --unit=spillway-engine --property=Restart=on-failure --property=RestartSec=2 \
    --property=StartLimitIntervalSec=1h --property=StartLimitBurst=5 --property=LimitNOFILE=65536 \
    --property=SuccessAction=poweroff --property=FailureAction=poweroff "$ENGINE" "$@" ||
    give_up "the engine could not be started"
