# ray_submit.sh CLUSTER_YAML SCRIPT DATA OUT HOME: `ray up`, `ray submit` through an sshd on loopback, `ray down`.
source "$(dirname "$0")/cluster.sh"
mount --bind "$5" /root
export HOME=/root
mkdir -p /run/sshd /root/.ssh /root/.ray
chmod 700 /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/host
$(command -v sshd || echo /usr/sbin/sshd) -h /root/.ssh/host -o ListenAddress=127.0.0.1 -o PermitRootLogin=prohibit-password \
    -o PasswordAuthentication=no
ray get-auth-token --generate > /dev/null
ray up -y --no-config-cache "$1"
ray submit --no-config-cache "$1" "$2" -- --data "$3" --out "$4" --trials 2 --epochs 1 --frames 16 --wandb off --address auto
ray down -y "$1"
