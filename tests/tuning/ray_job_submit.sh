# ray_job_submit.sh REPOSITORY COMMAND: a head that trains nothing, a second node that does, and a job submitted to both.
source "$(dirname "$0")/cluster.sh"
cd "$1"
export RAY_AUTH_TOKEN=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
start --head --node-ip-address 127.0.0.1 --port 6379 --num-cpus 0 --dashboard-host 127.0.0.1 --dashboard-port 8265
start --address 127.0.0.1:6379 --node-ip-address 127.0.0.1 --num-cpus 2
echo "== with another token"
RAY_AUTH_TOKEN=ff${RAY_AUTH_TOKEN:2} ray job submit --address http://127.0.0.1:8265 -- true && echo "accepted" || echo "refused"
echo "== with the token"
# On one machine both nodes unpack the working directory into the same place, the second over the first, so that the
# job's own folder is gone under it: it must stand elsewhere. On two machines the command alone is enough.
ray job submit --address http://127.0.0.1:8265 --working-dir . -- bash -c "export PYTHONPATH=\$PWD; cd /; exec $2"
