#!/usr/bin/env bash
# node.sh STATE BIN: process 1 of the node, in pid, mount and network namespaces of its own (node.py
# makes them). Its end is the end of every program and pod. STATE: conf/ and pki/ are made, the rest
# is the node's data. BIN: what build.py made. Addresses are those of node.py.
set -euo pipefail
state=$1 bin=$2 pki=$1/pki conf=$1/conf
address=10.200.0.1

# The usual paths, private to this mount namespace.
mount -t tmpfs tmpfs /run
for pair in kubelet:/var/lib/kubelet containerd:/var/lib/containerd cni:/var/lib/cni varlog:/var/log; do
  mkdir -p "$state/${pair%%:*}" "${pair#*:}"
  mount --bind "$state/${pair%%:*}" "${pair#*:}"
done
# The kubelet would set these for the whole machine, and leave them so. Here it reads what it wants,
# is content, and writes nothing.
for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  echo "${pair#*=}" >"/run/${pair//[\/=]/-}"
  mount --bind "/run/${pair//[\/=]/-}" "/proc/sys/${pair%=*}"
done

# The node's address is a bridge's: not every kernel has dummy devices. No way leads out but the one
# to this machine, which node.py lays.
ip link set lo up
ip link add node type bridge
ip address add "$address/24" dev node
ip link set node up
# Services, for processes that are in no pod: without a route kube-proxy never sees the packet.
ip route add 10.96.0.0/16 dev node src "$address"
echo 1 >/proc/sys/net/ipv4/ip_forward

run() {
  local name=$1
  shift
  "$@" >"$state/log/$name.log" 2>&1 &
}
run containerd containerd --config "$conf/containerd.toml"
run etcd "$bin/etcd" --data-dir "$state/etcd" --unsafe-no-fsync \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380
run apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
  --advertise-address="$address" --service-cluster-ip-range=10.96.0.0/16 \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --client-ca-file="$pki/cluster-ca.pem" \
  --tls-cert-file="$pki/apiserver.pem" --tls-private-key-file="$pki/apiserver.key.pem" \
  --kubelet-preferred-address-types=InternalIP \
  --kubelet-client-certificate="$pki/apiserver-kubelet.pem" \
  --kubelet-client-key="$pki/apiserver-kubelet.key.pem" \
  --kubelet-certificate-authority="$pki/cluster-ca.pem" \
  --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file="$pki/accounts.pub" \
  --service-account-signing-key-file="$pki/accounts.key" \
  --requestheader-client-ca-file="$pki/cluster-ca.pem" \
  --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User \
  --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$pki/front-proxy.pem" \
  --proxy-client-key-file="$pki/front-proxy.key.pem" --enable-aggregator-routing=true
until curl --fail --silent --insecure "https://127.0.0.1:6443/livez" >/dev/null; do sleep 0.1; done
as() { echo "--kubeconfig=$conf/$1.conf --authentication-kubeconfig=$conf/$1.conf" \
  "--authorization-kubeconfig=$conf/$1.conf --leader-elect=false"; }
# The autoscaler looks more often, and scales in sooner, than by default: a test waits for it.
# shellcheck disable=SC2046 # words on purpose
run controllers "$bin/kube-controller-manager" $(as controllers) \
  --root-ca-file="$pki/cluster-ca.pem" --service-account-private-key-file="$pki/accounts.key" \
  --use-service-account-credentials=true --horizontal-pod-autoscaler-sync-period=3s \
  --horizontal-pod-autoscaler-downscale-stabilization=15s \
  --horizontal-pod-autoscaler-initial-readiness-delay=5s \
  --horizontal-pod-autoscaler-cpu-initialization-period=10s
# shellcheck disable=SC2046
run scheduler "$bin/kube-scheduler" $(as scheduler)
run kubelet "$bin/kubelet" --config="$conf/kubelet.yaml" --kubeconfig="$conf/kubelet.conf" \
  --hostname-override=node --node-ip="$address"
run proxy "$bin/kube-proxy" --config="$conf/proxy.yaml" --hostname-override=node
# Once there is a node whose pods' policies it could enforce.
until "$bin/policies" --kubeconfig "$conf/admin.conf" --node node --services 10.96.0.0/16; do
  sleep 0.5
done >"$state/log/policies.log" 2>&1 &
wait
