#!/usr/bin/env bash
# Compiles protos/ into services/client/overdb: messages, gRPC stubs, and types for both.
# Usage: scripts/generate.sh [OUTPUT]   (default: services/client)
# PYTHON names the interpreter that has grpcio-tools (requirements/codegen.txt).
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-services/client}
python=${PYTHON:-.venv/codegen/bin/python}
plugins=$(dirname "$python")
mkdir -p "$output"
"$python" -m grpc_tools.protoc -Iprotos \
  --plugin=protoc-gen-mypy_grpc="$plugins/protoc-gen-mypy_grpc" \
  --plugin=protoc-gen-mypy="$plugins/protoc-gen-mypy" \
  --python_out="$output" --mypy_out=quiet:"$output" \
  --grpc_python_out="$output" --mypy_grpc_out=quiet:"$output" \
  $(cd protos && find overdb -name '*.proto' | LC_ALL=C sort)
