#!/usr/bin/env bash
# Compiles protos/ into services/client/overdb, and the part of etcd's API in bench/protos into bench/etcd:
# messages, gRPC stubs, and types for both.
# Usage: scripts/generate.sh [OUTPUT [BENCH_OUTPUT]]   (default: services/client and the root)
# PYTHON names the interpreter that has grpcio-tools (requirements/codegen.txt).
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-services/client}
bench_output=${2:-.}
python=${PYTHON:-.venv/codegen/bin/python}
plugins=$(dirname "$python")
compile() { # compile SOURCES OUTPUT PACKAGE
  mkdir -p "$2"
  "$python" -m grpc_tools.protoc -I"$1" \
    --plugin=protoc-gen-mypy_grpc="$plugins/protoc-gen-mypy_grpc" \
    --plugin=protoc-gen-mypy="$plugins/protoc-gen-mypy" \
    --python_out="$2" --mypy_out=quiet:"$2" \
    --grpc_python_out="$2" --mypy_grpc_out=quiet:"$2" \
    $(cd "$1" && find "$3" -name '*.proto' | LC_ALL=C sort)
}
compile protos "$output" overdb
compile bench/protos "$bench_output" bench
