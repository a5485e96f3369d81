# ray_job_submit.sh REPOSITORY COMMAND HEAD_CPUS SECOND_CPUS: a head, a second node, and a job submitted to both. Says at
# the end which nodes had trials.
source "$(dirname "$0")/cluster.sh"
cd "$1"
export RAY_AUTH_TOKEN=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
NODE=head start --head --node-ip-address 127.0.0.1 --port 6379 --num-cpus "$3" --dashboard-host 127.0.0.1 --dashboard-port 8265
NODE=second start --address 127.0.0.1:6379 --node-ip-address 127.0.0.1 --num-cpus "$4"
# A trial, which ps calls by its name, has its environment from its node.
seen=$(mktemp)
while sleep 0.3; do
    for trial in $(pgrep '^trial '); do
        tr '\0' '\n' 2>/dev/null < "/proc/$trial/environ" | grep '^NODE=' >> "$seen" || true
    done
done &
echo "== with another token"
RAY_AUTH_TOKEN=ff${RAY_AUTH_TOKEN:2} ray job submit --address http://127.0.0.1:8265 -- true && echo "accepted" || echo "rejected"
echo "== with the token"
# On one machine both nodes unpack the working directory into the same place, the second over the first, so that the
# job's own folder is gone under it: it must stand elsewhere. On two machines the command alone is enough.
ray job submit --address http://127.0.0.1:8265 --working-dir . -- bash -c "export PYTHONPATH=\$PWD; cd /; exec $2"
echo "== trials ran on: $(sort -u "$seen" | tr '\n' ' ')"
