#!/usr/bin/env bash
# The program of systemd that writes journal files, of Debian 12: a test runs it itself. No journald is started.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

install_journald() { apt_packages systemd-journal-remote; }

start_journald() {
  install_journald
  env_line AAP_TEST_JOURNAL_REMOTE /lib/systemd/systemd-journal-remote
}

stop_journald() { true; }
status_journald() { say "journal files are written only within tests"; }

service_main journald "$@"
