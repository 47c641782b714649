#!/usr/bin/env bash
# Prometheus 2.42 of Debian 12 as a program: a test writes the configuration (what to scrape, where to write) and runs it itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

install_prometheus() { apt_packages prometheus; }

start_prometheus() {
  install_prometheus
  env_line AAP_TEST_PROMETHEUS "$(command -v prometheus)"
}

stop_prometheus() { true; }
status_prometheus() { say "prometheus runs only within tests"; }

service_main prometheus "$@"
