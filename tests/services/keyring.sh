#!/usr/bin/env bash
# GNOME Keyring of Debian 12, a Secret Service, and the D-Bus that it needs: tests run both themselves, in folders of their own.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

install_keyring() { apt_packages gnome-keyring dbus-daemon dbus-bin; }

start_keyring() {
  install_keyring
  env_line AAP_TEST_KEYRING /usr/bin/gnome-keyring-daemon
}

stop_keyring() { true; }
status_keyring() { say "keyrings are opened only within tests"; }

service_main keyring "$@"
