#!/bin/sh
# Prints the path of a Python that has the reference, deltatensors 0.2.0, and what our own reader of version 2 needs. Makes it where it
# lacks: Debian's torch below a virtual environment in a cache folder outside the checkout, so that the next run finds it.
set -eu
home="${XDG_CACHE_HOME:-$HOME/.cache}/wdelta-registry/interop"
python="$home/bin/python"
works() { "$python" -c 'import deltatensors, safetensors, torch, xxhash, zstandard' 2>/dev/null; }
if ! works; then
  as_root=
  [ "$(id -u)" = 0 ] || as_root=sudo
  {
    if ! /usr/bin/python3 -c 'import numpy, torch, venv, ensurepip' 2>/dev/null; then
      export DEBIAN_FRONTEND=noninteractive
      $as_root apt-get update -q
      $as_root apt-get install -qy --no-install-recommends python3-torch python3-numpy python3-venv
    fi
    /usr/bin/python3 -m venv --clear --system-site-packages "$home"
    "$home/bin/pip" install -q --disable-pip-version-check deltatensors==0.2.0 safetensors==0.8.0 xxhash==4.1.0 zstandard==0.25.0
  } >&2
  works
fi
echo "$python"
