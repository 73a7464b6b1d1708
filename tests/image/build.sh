#!/usr/bin/env bash
# build.sh FOLDER [loader|training]: build services/Dockerfile without a registry, as the image
# localhost/sluice:test; with `loader` that of `make bench-cluster` as localhost/sluice-loader:test,
# with `training` that of the learning loop (models/Dockerfile) as localhost/sluice-training:test.
#
# A Debian made by debootstrap stands in for the base image that the Dockerfile names; it is kept in
# FOLDER/base (300 MB) and used again. Images and their layers are in FOLDER/store. Needs root,
# buildah, debootstrap, and Debian and the Python package index by their usual addresses. Where TLS
# is terminated between here and there, the certificates this machine trusts are put into the base.
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
store=(--root "$folder/store" --runroot "$folder/run" --storage-driver overlay)
bud() { buildah "${store[@]}" bud --quiet --layers --isolation chroot --network host --pull-never "$@"; }

base=$(sed -n 's/^ARG BASE=//p' "$root/services/Dockerfile")
if [ ! -e "$folder/base/.done" ]; then
  rm -rf "$folder/base"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/base"
  rm -rf "$folder/base"/var/cache/apt/* "$folder/base"/var/lib/apt/lists/*
  touch "$folder/base/.done"
fi
cp /etc/ssl/certs/ca-certificates.crt "$folder/base/etc/ssl/certs/"
printf '%s\n' '*' '!base' >"$folder/.dockerignore"
bud --file "$here/base.Dockerfile" --tag "localhost/base:test" "$folder" >/dev/null
what=sluice file=$root/services/Dockerfile ignored=$root/.dockerignore
case "${2:-}" in
  loader) what=sluice-loader file=$root/benchmarks/cluster/Dockerfile ;;
  training) what=sluice-training file=$root/models/Dockerfile ;;
esac
[ "$what" = sluice ] || ignored=$file.dockerignore
bud --build-arg BASE=localhost/base:test --file "$file" --ignorefile "$ignored" --tag "localhost/$what:test" "$root" >/dev/null
echo "localhost/$what:test, on a stand-in for $base"
