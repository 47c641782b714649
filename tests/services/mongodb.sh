#!/usr/bin/env bash
# What speaks MongoDB's protocol and is built from a Go module: FerretDB 1.24 over SQLite, a file for each database, each commit
# synced to the disk. User and password `aap`. It has no Decimal128, no replica sets, and keeps no write concern but its own.
# AAP_MONGODB_PORT (27117); AAP_MONGODB_TLS_PORT (27118) speaks TLS.
#   mongodb.sh command DATABASE JSON              the answer to a command
#   mongodb.sh documents DATABASE COLLECTION [FIELD...]   a line for each document
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

VERSION=v1.24.2
CLIENT=4.15.5
PORT=${AAP_MONGODB_PORT:-27117}
TLS_PORT=${AAP_MONGODB_TLS_PORT:-27118}
DIR=$RUN/mongodb
SERVER=$AAP_SERVICES_DIR/mongodb
PYTHON=$AAP_SERVICES_DIR/mongodb-client

install_mongodb() {
  python_venv "$PYTHON" "pymongo==$CLIENT"
  if finished "$SERVER" && [[ "$(cat "$SERVER/pins" 2>/dev/null)" == "$VERSION" ]]; then return 0; fi
  need go
  say "building FerretDB $VERSION (minutes)"
  rm -rf "$SERVER"
  mkdir -p "$SERVER"
  # From a copy: the cache of modules cannot be written to, and the build wants a file that only the repository has.
  (
    cd "$SERVER"
    folder=$(go mod download -json "github.com/FerretDB/FerretDB@$VERSION" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    cp -R "$folder" source
    chmod -R u+w source
    cd source
    printf '%s\n' "$VERSION" >build/version/version.txt
    # Clients ask to be spared an empty message at the end of a log-in (`skipEmptyExchange`), and this server sends it anyway.
    sed -i 's/"done", valid, .*/"done", conv.Valid(),/' internal/handler/msg_saslcontinue.go
    CGO_ENABLED=0 nice go build -tags ferretdb_no_postgresql -mod=readonly -buildvcs=false -trimpath -ldflags '-s -w' \
      -o "$SERVER/bin/ferretdb" ./cmd/ferretdb
    rm -rf "$SERVER/source"
  ) >>"$SERVER/build.log" 2>&1 || die "the build of FerretDB failed: see $SERVER/build.log"
  printf '%s\n' "$VERSION" >"$SERVER/pins"
  mark_finished "$SERVER"
}

start_mongodb() {
  mkdir -p "$DIR/data" "$DIR/state"
  make_cert "$DIR/tls"
  ports_free mongodb "$PORT" "$TLS_PORT"
  start_daemon mongodb "$DIR/mongodb.log" "$SERVER/bin/ferretdb" --handler=sqlite \
    --sqlite-url="file:$DIR/data/?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)" \
    --state-dir="$DIR/state" --listen-addr="127.0.0.1:$PORT" --listen-tls="127.0.0.1:$TLS_PORT" \
    --listen-tls-cert-file="$DIR/tls/server.crt" --listen-tls-key-file="$DIR/tls/server.key" \
    --debug-addr=- --telemetry=disable --log-level=error --test-enable-new-auth \
    --setup-database=admin --setup-username=aap --setup-password=aap
  wait_for 20 mongodb client command admin '{"ping": 1}'
  env_line AAP_TEST_MONGODB "mongodb://127.0.0.1:$PORT"
  env_line AAP_TEST_MONGODB_TLS "mongodb://localhost:$TLS_PORT"
  env_line AAP_TEST_MONGODB_CA "$DIR/tls/ca.crt"
}

stop_mongodb() { stop_daemon mongodb; }
status_mongodb() { daemon_status mongodb; }
command_mongodb() { client command "$@"; }
documents_mongodb() { client documents "$@"; }

# The client of MongoDB for Python: it shares no code with ours.
client() {
  "$PYTHON/bin/python" - "mongodb://aap:aap@127.0.0.1:$PORT/?serverSelectionTimeoutMS=5000" "$@" <<'PYTHON'
import sys

from bson import json_util
from pymongo import MongoClient

url, action, database, *words = sys.argv[1:]
database = MongoClient(url)[database]
if action == "command":
    found = [database.command(json_util.loads(words[0]))]
else:
    collection, *fields = words
    found = database[collection].find({}, {"_id": 0, **{field: 1 for field in fields}} if fields else None)
for document in found:
    print(json_util.dumps(document, json_options=json_util.RELAXED_JSON_OPTIONS))
PYTHON
}

service_main mongodb "$@"
