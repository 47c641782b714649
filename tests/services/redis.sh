#!/usr/bin/env bash
# Redis of the distribution (7.0 in Debian 12; streams, ACLs, TLS): password `aap`, append-only file on.
# AAP_REDIS_PORT (16379); AAP_REDIS_TLS_PORT (16380) speaks TLS.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

PORT=${AAP_REDIS_PORT:-16379}
TLS_PORT=${AAP_REDIS_TLS_PORT:-16380}
DIR=$RUN/redis

install_redis() { apt_packages redis-server openssl; }

start_redis() {
  mkdir -p "$DIR/data"
  make_cert "$DIR/tls"
  cat >"$DIR/redis.conf" <<CONF
bind 127.0.0.1
port $PORT
tls-port $TLS_PORT
tls-cert-file $DIR/tls/server.crt
tls-key-file $DIR/tls/server.key
tls-ca-cert-file $DIR/tls/ca.crt
tls-auth-clients no
requirepass aap
dir $DIR/data
appendonly yes
save ""
CONF
  ports_free redis "$PORT" "$TLS_PORT"
  start_daemon redis "$DIR/redis.log" redis-server "$DIR/redis.conf"
  wait_for 20 redis env REDISCLI_AUTH=aap redis-cli -e -p "$PORT" ping
  env_line AAP_TEST_REDIS "redis://:aap@127.0.0.1:$PORT/0"
  env_line AAP_TEST_REDIS_TLS "rediss://:aap@127.0.0.1:$TLS_PORT/0"
  env_line AAP_TEST_REDIS_CA "$DIR/tls/ca.crt"
}

stop_redis() { stop_daemon redis; }
status_redis() { daemon_status redis; }

service_main redis "$@"
