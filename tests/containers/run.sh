#!/usr/bin/env bash
# The recipe of `make container-test`: builds both images and brings the compose file up for real, with buildah, podman and
# the real Compose in place of a Docker engine. It leaves nothing behind but the Debian packages that it had to install.
#
#   BASE_IMAGE_TOOL     makes the base images where no registry can be reached; called with a folder it may work in.
#                       Without one they are taken from this machine's images, or else pulled.
#   CONTAINER_TEST_DIR  folder for images and all else, kept for a faster next run; by default a temporary one.
#   PYTHON              Python that runs Compose; its pip configuration is what the build uses.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/containers/engine.sh
source tests/containers/engine.sh

start_engine
build_image service
build_image tools
image_is_lean service
image_is_lean tools

compose config --quiet
ok "compose config is valid"

SECONDS=0
compose up --detach --no-build &>"$work/up.log" || fail "compose up: $(tail -n 5 "$work/up.log")"
wait_for 60 "the API is ready" curl --fail --silent "$url/readyz"
ok "ready $SECONDS s after \`up\`, pre-training (DISTIL_SECONDS=$DISTIL_SECONDS) included"
[ "$(podman inspect --format '{{.State.ExitCode}}' "$(container pretrain)")" = 0 ] || fail "pretrain did not end well"
ok "pretrain ended with code 0"
wait_for 60 "the API is healthy" is_healthy api
is_healthy redis || fail "redis is not healthy"
ok "redis and api are healthy"

for service in api worker; do
    [ "$(in_container "$service" id -u)" = 10001 ] || fail "$service runs as another user than 10001"
    ! in_container "$service" touch /home/ialp/x 2>/dev/null || fail "$service can write to its root file system"
    in_container "$service" touch /tmp/x /data/x || fail "$service cannot write to /tmp and /data"
    ! in_container "$service" touch /runs/x 2>/dev/null || fail "$service can write to /runs"
done
in_container api rm /data/x
ok "api and worker run as user 10001 on a read-only root file system"

[ "$(curl --silent --output /dev/null --write-out '%{http_code}' "$url/policies")" = 401 ] || fail "no key is asked for"
[ "$(in_container api stat --format '%a %u' /keys/admin.key)" = "600 10001" ] || fail "the key is not its owner's alone"
! in_container api touch /keys/admin.key 2>/dev/null || fail "api can write to /keys"
take_key
ok "requests need the key that the first start made"

post recommend '{"user_id": "somebody", "k": 5}' >"$work/slate.json"
holds 'slate["policy_version"] >= 1 and len(slate["items"]) == 5' slate
ok "/recommend answers with five items of version $(value 'slate["policy_version"]' slate)"
click=$(value 'json.dumps({"event_id": "once", "user_id": "somebody", "type": "click",
    "recommendation_id": slate["recommendation_id"], "item_id": slate["items"][0]["item_id"]})' slate)
post feedback "$click" >"$work/taken.json"
holds 'taken["accepted"] == 1' taken
ok "/feedback is accepted"

simulate 1
holds_policies 'policies["live_version"] > 1'
ok "the worker learned: version $(value 'policies["live_version"]' policies) serves"

kill_by_force worker
kill_by_force redis
wait_for 60 "the API is ready again" curl --fail --silent "$url/readyz"
before=$(value 'len(policies["policies"])' policies)
holds_policies "len(policies['policies']) >= $before"
post feedback "$click" >"$work/taken.json"
holds 'taken["duplicates"] == 1' taken
ok "nothing is lost: all $before versions are there and the first event is known"
before=$(value 'max(policy["version"] for policy in policies["policies"])' policies)
simulate 2
holds_policies "max(policy['version'] for policy in policies['policies']) > $before"
compose logs --no-color worker &>"$work/worker.log" || fail "compose logs: $(tail -n 5 "$work/worker.log")"
grep -q "resuming at" "$work/worker.log" || fail "the worker did not resume from its checkpoint"
ok "the worker resumed and went on: version $(value 'policies["live_version"]' policies) serves"

SECONDS=0
compose up --detach --no-build &>"$work/up.log" || fail "second compose up: $(tail -n 5 "$work/up.log")"
[ "X-API-Key: $(in_container api cat /keys/admin.key)" = "$(cat "$work/key.header")" ] || fail "the key changed"
ok "a second \`up\` keeps the pre-trained policy and the key ($SECONDS s)"
compose --profile observability config --quiet
for _ in first again; do
    compose --profile observability up --no-build --no-deps metrics-key &>"$work/metrics-key.log" ||
        fail "metrics-key: $(tail -n 5 "$work/metrics-key.log")"
done
[ "$(in_container api python -m service keys list | grep -c 'prometheus  *metrics ')" = 1 ] ||
    fail "not one key for Prometheus, which may read metrics alone"
ok "Prometheus gets a key of its own, once"

compose --profile simulate --profile observability logs --no-color &>"$work/all.log" || fail "compose logs: $(tail -n 5 "$work/all.log")"
grep -q '(compose) may: ' "$work/all.log" || fail "the log of the service that made the key is not there"
! grep -qFf <(cut -d_ -f3- "$work/key.header") "$work/all.log" || fail "the key's secret is in a log"
ok "the key's secret is in no log"

compose --profile simulate --profile observability down --volumes --remove-orphans 2>/dev/null
[ -z "$(podman ps --all --quiet)$(podman volume ls --quiet)" ] || fail "\`down -v\` left containers or volumes"
[ "$(podman network ls --quiet)" = podman ] || fail "\`down -v\` left networks"
ok "\`down -v\` leaves nothing"
