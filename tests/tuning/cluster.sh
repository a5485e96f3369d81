# Sourced by scripts that run in namespaces of their own, as root: no Ray process of anyone else can be seen or stopped,
# nothing outside loopback can be reached, and all that was started ends with the script.
#
#   unshare --pid --fork --mount-proc --net --mount --propagation private bash SCRIPT ARGUMENTS
set -euo pipefail
ip link set lo up
unset RAY_TMPDIR
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
export PATH="$PYTHON_BIN:$PATH"

# Ray gives its own processes 30 s to come up, which a busy machine may not keep: then once more.
start() {
    for attempt in 1 2 3; do
        ray start "$@" && return
        sleep 2
    done
    return 1
}
