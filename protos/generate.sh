#!/usr/bin/env bash
# Generates client/lrpilot/v1 from the protos: `protos/generate.sh OUTPUT_DIR`.
# protos/ is protoc's path and client/ its output, so that imports match folders and nothing needs patching.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-../client}
python=${PYTHON:-python}
"$python" -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" lrpilot/v1/tuner.proto
