# ray_submit.sh CLUSTER_YAML SCRIPT DATA OUT HOME: `ray up`, `ray submit` through an sshd on loopback, `ray down`.
source "$(dirname "$0")/cluster.sh"
# What is written into the home folder is written over it, not into it.
mount -t tmpfs tmpfs "$5"
mkdir "$5/over" "$5/work"
mount -t overlay overlay -o "lowerdir=$HOME,upperdir=$5/over,workdir=$5/work" "$HOME"
mkdir -p /run/sshd "$HOME/.ssh" "$HOME/.ray"
rm -rf "$HOME"/.ssh/*
chmod 700 $HOME/.ssh
ssh-keygen -q -t ed25519 -N '' -f $HOME/.ssh/id_ed25519
cp $HOME/.ssh/id_ed25519.pub $HOME/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f $HOME/.ssh/host
$(command -v sshd || echo /usr/sbin/sshd) -h $HOME/.ssh/host -o ListenAddress=127.0.0.1 -o PermitRootLogin=prohibit-password \
    -o PasswordAuthentication=no
ray get-auth-token --generate > /dev/null
(cd "$(dirname "$0")/../.." && python -m tuning.certificate authority "$HOME/.ray/tls")
ray up -y --no-config-cache "$1"
ray submit --no-config-cache "$1" "$2" -- --data "$3" --out "$4" --trials 2 --epochs 1 --frames 16 --wandb off --address auto
ray down -y "$1"
