#!/usr/bin/env bash
# `make kind` and `make kind-down`: all of Sluice on a Kubernetes in Docker, from nothing to a decision.
#   kind.sh up | load | down
# Needs docker, kind, kubectl and helm (4). Nothing of it is run by the project's own tests, which have
# no Docker: shellcheck reads it, and a test compares it with the chart.
set -euo pipefail
cd "$(dirname "$0")/../.."

NAME=${KIND_NAME:-sluice}
PORT=${KIND_PORT:-8080}
# kind v0.33.0's own image of this version.
NODE=${KIND_NODE:-kindest/node:v1.34.11@sha256:44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d}
# Those that KServe v0.20.0 was tested with (kserve-deps.env); metrics-server 3.13.0 is v0.8.0.
CERT_MANAGER=v1.17.0
KSERVE=v0.20.0
KEDA=2.18.0
METRICS_SERVER=3.13.0
WAIT=10m

need() {
  local missing=()
  for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if ((${#missing[@]})); then
    echo "make kind: not installed: ${missing[*]}. Without Docker: make cluster (Linux, root)" >&2
    exit 1
  fi
}

say() { printf '%-10s %s\n' "$1" "$2"; }
kube() { kubectl --context "kind-$NAME" "$@"; }
# Install or bring up to date, and wait. Arguments: release, namespace, chart, and more of Helm's.
chart() {
  helm upgrade --install "$1" "$3" --kube-context "kind-$NAME" --namespace "$2" --create-namespace \
    --wait=legacy --timeout "$WAIT" "${@:4}" >/dev/null
}

up() {
  need docker kind kubectl helm
  docker info >/dev/null
  if ! kind get clusters 2>/dev/null | grep -qx "$NAME"; then
    say cluster "$NAME: one node"
    sed -e "s#@ROOT@#$PWD#" -e "s#@PORT@#$PORT#" local/kind/cluster.yaml |
      kind create cluster --name "$NAME" --image "$NODE" --config - --wait 3m
  fi
  say images "sluice, built by docker"
  local tag
  tag=$(sed -n 's/^appVersion: *//p' charts/sluice/Chart.yaml | tr -d '"')
  docker build --quiet --file services/Dockerfile --tag "sluice:$tag" . >/dev/null
  kind load docker-image "sluice:$tag" --name "$NAME"
  say platform "metrics-server, cert-manager, KServe, KEDA"
  # kind's kubelets sign their certificates themselves.
  chart metrics-server kube-system metrics-server --version "$METRICS_SERVER" \
    --repo https://kubernetes-sigs.github.io/metrics-server/ --set 'args={--kubelet-insecure-tls}'
  chart cert-manager cert-manager cert-manager --version "$CERT_MANAGER" \
    --repo https://charts.jetstack.io --set crds.enabled=true
  chart kserve-crd kserve oci://ghcr.io/kserve/charts/kserve-crd --version "$KSERVE"
  chart kserve kserve oci://ghcr.io/kserve/charts/kserve-resources --version "$KSERVE" \
    --set kserve.controller.deploymentMode=Standard \
    --set kserve.controller.gateway.disableIngressCreation=true
  chart keda keda keda --version "$KEDA" --repo https://kedacore.github.io/charts
  say sluice "chart, with a broker and a store of its own"
  kube create namespace sluice --dry-run=client --output yaml | kube apply -f - >/dev/null
  kube apply -f local/kind/around.yaml >/dev/null
  chart sluice sluice charts/sluice --values charts/sluice/ci/kind.yaml --values local/kind/values.yaml
  # Helm has waited for everything but what KServe makes of the InferenceService.
  kube --namespace sluice wait --for=condition=Ready inferenceservice/sluice --timeout "$WAIT" >/dev/null
  kube --namespace sluice rollout status deployment/sluice-predictor --timeout "$WAIT" >/dev/null
  say test "an authorization, its decision, its state"
  helm test sluice --kube-context "kind-$NAME" --namespace sluice --timeout 5m >/dev/null
  say ready "http://127.0.0.1:$PORT/v1/authorizations (kubectl --context kind-$NAME; make kind-down)"
}

load() {
  need docker kind
  docker build --quiet --file benchmarks/cluster/Dockerfile --tag sluice-loader:dev . >/dev/null
  kind load docker-image sluice-loader:dev --name "$NAME"
  say ready "kubectl config use-context kind-$NAME && make bench-cluster"
}

down() {
  need kind
  kind delete cluster --name "$NAME"
}

case ${1-} in
up | load | down) "$1" ;;
*)
  echo "usage: kind.sh up | load | down" >&2
  exit 64
  ;;
esac
