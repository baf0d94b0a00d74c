#!/usr/bin/env bash
# Fails where client/lrpilot/v1 is not what the proto gives.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf build/protos && mkdir -p build/protos
protos/generate.sh "$PWD/build/protos"
for file in build/protos/lrpilot/v1/*; do diff -u "$file" "client/lrpilot/v1/$(basename "$file")"; done
