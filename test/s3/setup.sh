#!/bin/sh
# Prints the folder of the servers that the suites of test/s3 need: versitygw, minio, toxiproxy. Builds those that are missing, into a cache folder
# outside the checkout, so that the next run finds it. Needs a Go toolchain.
set -eu
bin="${XDG_CACHE_HOME:-$HOME/.cache}/wdelta-registry/bin"
mkdir -p "$bin"
install() {
  [ -x "$bin/$1" ] && return
  # Built apart, and moved into place when it is whole: several runs may be at it.
  new=$(mktemp -d)
  GOBIN="$new" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false go install "$2" >&2
  mv "$new"/* "$bin/$1"
  rmdir "$new"
}
install versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0
install minio github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
install toxiproxy github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0
echo "$bin"
