#!/usr/bin/env bash
# Debian's Chromium and its driver, for whoever may install packages.
set -euo pipefail
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive timeout 240 \
    apt-get install --yes --quiet --quiet --no-install-recommends chromium chromium-driver >/dev/null
