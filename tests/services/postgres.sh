#!/usr/bin/env bash
# PostgreSQL 15 of Debian 12 as a private cluster: user, password and database `aap` (a superuser), wal_level=logical and slots for
# every test that reads changes.
# AAP_POSTGRES_PORT (15432); AAP_POSTGRES_TLS=1 refuses connections without TLS.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

VERSION=15
PORT=${AAP_POSTGRES_PORT:-15432}
DIR=$RUN/postgres
BIN=/usr/lib/postgresql/$VERSION/bin

install_postgres() { apt_packages "postgresql-$VERSION" "postgresql-client-$VERSION" openssl; }

create_cluster() {
  own postgres "$DIR"
  make_cert "$DIR/tls"
  own postgres "$DIR"
  # Made aside and moved, so that a half-made cluster is never taken for a whole one.
  rm -rf "$DIR/data.new"
  echo aap >"$DIR/password"
  "${AS_USER[@]}" "$BIN/initdb" -D "$DIR/data.new" -U aap --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 \
    --pwfile="$DIR/password" >"$DIR/initdb.log" 2>&1 || die "initdb failed: see $DIR/initdb.log"
  cat >>"$DIR/data.new/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$DIR'
wal_level = logical
max_replication_slots = 32
max_wal_senders = 32
max_connections = 200
ssl = on
ssl_cert_file = '$DIR/tls/server.crt'
ssl_key_file = '$DIR/tls/server.key'
CONF
  mv "$DIR/data.new" "$DIR/data"
}

start_postgres() {
  local query='' host=host
  as_user postgres
  [[ -f $DIR/data/PG_VERSION ]] || create_cluster
  if [[ ${AAP_POSTGRES_TLS:-} == 1 ]]; then
    host=hostssl
    query="?sslmode=verify-full&sslrootcert=$DIR/tls/ca.crt"
  fi
  printf '%s\n' 'local all all scram-sha-256' "$host all all 127.0.0.1/32 scram-sha-256" \
    "$host replication all 127.0.0.1/32 scram-sha-256" >"$DIR/data/pg_hba.conf"
  ports_free postgres "$PORT"
  # Left by a server that was killed: to PostgreSQL a zombie looks alive.
  daemon_running postgres || rm -f "$DIR/data/postmaster.pid" "$DIR/.s.PGSQL.$PORT.lock"
  start_daemon postgres "$DIR/postgres.log" "${AS_USER[@]}" "$BIN/postgres" -D "$DIR/data" -p "$PORT"
  # After a kill it syncs its whole data directory first, which takes a busy disk a while.
  wait_for 120 postgres "$BIN/pg_isready" -q -h 127.0.0.1 -p "$PORT"
  export PGPASSWORD=aap PGHOST=$DIR PGPORT=$PORT PGUSER=aap
  "$BIN/psql" -qc 'SELECT 1' aap >/dev/null 2>&1 || "$BIN/createdb" aap
  env_line AAP_TEST_POSTGRES "postgres://aap:aap@127.0.0.1:$PORT/aap$query"
}

stop_postgres() {
  # INT ends open sessions; TERM alone would wait for them.
  local pid
  if pid=$(daemon_pid postgres); then kill -INT "$pid"; fi
  stop_daemon postgres
}

status_postgres() { tree_status postgres; }

service_main postgres "$@"
