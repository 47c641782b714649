#!/usr/bin/env bash
# Mosquitto 2.0 of Debian 12: MQTT 3.1.1 and 5, user and password `aap`, sessions and retained messages kept on disk.
# AAP_MOSQUITTO_PORT (11883); AAP_MOSQUITTO_TLS_PORT (18883) speaks TLS.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

PORT=${AAP_MOSQUITTO_PORT:-11883}
TLS_PORT=${AAP_MOSQUITTO_TLS_PORT:-18883}
DIR=$RUN/mosquitto

install_mosquitto() { apt_packages mosquitto mosquitto-clients openssl; }

start_mosquitto() {
  as_user mosquitto
  make_cert "$DIR/tls"
  mkdir -p "$DIR/data"
  rm -f "$DIR/passwords"
  mosquitto_passwd -b -c "$DIR/passwords" aap aap
  cat >"$DIR/mosquitto.conf" <<CONF
listener $PORT 127.0.0.1
listener $TLS_PORT 127.0.0.1
certfile $DIR/tls/server.crt
keyfile $DIR/tls/server.key
allow_anonymous false
password_file $DIR/passwords
persistence true
persistence_location $DIR/data/
autosave_interval 5
# A test publishes thousands while its subscriber is away.
max_queued_messages 0
log_dest stderr
CONF
  own mosquitto "$DIR"
  ports_free mosquitto "$PORT" "$TLS_PORT"
  start_daemon mosquitto "$DIR/mosquitto.log" "${AS_USER[@]}" mosquitto -c "$DIR/mosquitto.conf"
  wait_for 20 mosquitto mosquitto_pub -h 127.0.0.1 -p "$PORT" -u aap -P aap -t aap/ready -n
  env_line AAP_TEST_MQTT "mqtt://aap:aap@127.0.0.1:$PORT"
  env_line AAP_TEST_MQTT_TLS "mqtts://aap:aap@127.0.0.1:$TLS_PORT"
  env_line AAP_TEST_MQTT_CA "$DIR/tls/ca.crt"
}

stop_mosquitto() { stop_daemon mosquitto; }
status_mosquitto() { daemon_status mosquitto; }

service_main mosquitto "$@"
