#!/usr/bin/env bash
# Installs what the tests with network namespaces drive: nginx as the hub, curl to ask it, ip and tc for the networks,
# libfaketime for a clock that jumps.
# Without root nothing is installed; the tests that lack something say so and are skipped.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
command -v nginx >/dev/null || missing+=(nginx-light)
command -v curl >/dev/null || missing+=(curl)
{ command -v ip && command -v tc; } >/dev/null || missing+=(iproute2)
compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "The lab tests will be skipped: ${missing[*]} not installed, and only root on Debian installs it here." >&2
  exit 0
fi
# RUNLEVEL=1 keeps the package from starting a web server of its own on port 80.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
