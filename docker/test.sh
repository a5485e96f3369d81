#!/usr/bin/env bash
# Build docker/Dockerfile's CPU image for real without a docker engine, and run the demo's main job in it, small.
#
#   make test-docker             (as root; apt-get install buildah debootstrap)
#
# The base is a Debian made here by debootstrap, for want of a registry to pull one from; the packages are fetched
# outside, with this machine's own pip settings, and installed inside from that folder alone. WORK (default
# .docker-test) keeps the base and the packages, so that a second run takes a minute; what buildah made is removed.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$(realpath -m "${WORK:-.docker-test}")
PIP=${PIP:-.venv/bin/pip}
SUITE=${SUITE:-bookworm}  # its python3 must be that of PIP, which chooses the packages
MIRROR=${MIRROR:-http://deb.debian.org/debian}

for program in buildah debootstrap; do
    command -v "$program" >/dev/null || { echo "no $program: apt-get install buildah debootstrap"; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "debootstrap and chroot isolation need root"; exit 2; }
mkdir -p "$WORK"

say() { printf '== %s\n' "$*"; }

# Of its own, so that no other image or container of this machine is seen or touched.
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$WORK/policy.json"
build() { buildah --root "$WORK/images" --runroot "$WORK/run" "$@"; }
trap 'build rm --all >/dev/null 2>&1 || true; build rmi --all --force >/dev/null 2>&1 || true' EXIT

say "base: Debian $SUITE"
if [ ! -e "$WORK/base.tar" ]; then
    rm -rf "$WORK/base"
    debootstrap --variant=minbase --include=python3,python3-venv "$SUITE" "$WORK/base" "$MIRROR" > "$WORK/base.log"
    printf '[global]\nno-index = true\nfind-links = /wheels\n' > "$WORK/base/etc/pip.conf"
    tar --directory "$WORK/base" --create --file "$WORK/base.part" .
    mv "$WORK/base.part" "$WORK/base.tar"
    rm -rf "$WORK/base"
fi
base=$(build from --signature-policy "$WORK/policy.json" scratch)
build add "$base" "$WORK/base.tar" / >/dev/null
build commit --quiet --format docker --signature-policy "$WORK/policy.json" "$base" localhost/base >/dev/null
build rm "$base" >/dev/null

say "packages: the wheels of docker/lock, by their sha256"
for lock in cpu torch-cpu; do
    "$PIP" download --quiet --dest "$WORK/wheels" --no-deps --require-hashes --only-binary :all: \
        --requirement "docker/lock/$lock.txt" 2> "$WORK/packages.log" || { tail "$WORK/packages.log"; exit 1; }
done

say "image"
build bud --quiet --format docker --signature-policy "$WORK/policy.json" --pull-never \
    --volume "$WORK/wheels:/wheels:ro" --build-arg BASE=localhost/base --file docker/Dockerfile --tag skelnorm:cpu .

say "inside: who, what, and the demo's main job"
container=$(build from --signature-policy "$WORK/policy.json" --pull-never localhost/skelnorm:cpu)
inside() { build run "$container" -- "$@"; }
[ "$(inside id -u)" = 10001 ] || { echo "the container runs as $(inside id -u), not as 10001"; exit 1; }
if inside sh -c 'touch /opt/skelnorm/x' 2>/dev/null; then echo "the user may change the program"; exit 1; fi
build inspect --type image localhost/skelnorm:cpu | grep -q '"Healthcheck"' || { echo "no health check"; exit 1; }
inside sh -c 'python -c "import pipeline"'  # the health check's own command outside a Ray node
inside python -m preprocessing.synthetic raw --clips "${CLIPS:-240}"
inside python -m preprocessing.build raw --out clips.h5
TRAIN="python -m pipeline.train demo --data clips.h5 --train.epochs ${EPOCHS:-4} --input.frames 32 --nproc 2"
inside $TRAIN --out none --norm.kind none --norm.persons loop
inside $TRAIN --out bn-loop --norm.kind bn --norm.persons loop --norm.momentum 0.01
inside $TRAIN --out bn-masked --norm.kind bn --norm.persons masked
inside python -m pipeline.doctor bn-loop --split test
inside python -m tuning.search --data clips.h5 --out study --trials 2 --epochs 2 --frames 32
inside python -m pipeline.page none bn-loop bn-masked --study study --out report.html
inside sh -c 'ls -l report.html study/results.json bn-loop/doctor.json'
say "1 passed, 0 failed"
