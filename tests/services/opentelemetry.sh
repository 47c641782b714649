#!/usr/bin/env bash
# The OpenTelemetry SDK of Python with its exporters over gRPC and HTTP, in a virtual environment: a client, no server.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

VERSION=1.45.2
DIR=$AAP_SERVICES_DIR/opentelemetry-$VERSION

install_opentelemetry() {
  python_venv "$DIR" "opentelemetry-sdk==$VERSION" "opentelemetry-exporter-otlp-proto-grpc==$VERSION" \
    "opentelemetry-exporter-otlp-proto-http==$VERSION"
}

start_opentelemetry() {
  install_opentelemetry
  env_line AAP_TEST_OPENTELEMETRY "$DIR/bin/python"
}

stop_opentelemetry() { true; }
status_opentelemetry() { say "the SDK runs only within tests"; }

service_main opentelemetry "$@"
