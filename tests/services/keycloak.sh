#!/usr/bin/env bash
# Keycloak, a provider of identities that speaks OpenID Connect, in memory: each start is a fresh realm. TLS only.
#   keycloak.sh install | start | stop [--purge] | status
#   keycloak.sh approve URL USER PASSWORD   what a person does with the URL of a device flow: logs in, and allows it
#   keycloak.sh visit URL USER PASSWORD     what a browser does with the URL of a code flow: logs in, and prints where it is sent
#   keycloak.sh join | leave USER GROUP     puts a user into a group, or takes them out of it
# Realm aap: users alice (group platform-admins), bob (platform-viewers), carol (no group), each with their name as the password;
# the public client aap-cli with the code flow to 127.0.0.1, the device flow, and the claim `groups` in ID tokens.
# AAP_KEYCLOAK_PORT (28443), AAP_KEYCLOAK_MANAGEMENT_PORT (28444)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

KEYCLOAK_VERSION=26.7.3
PORT=${AAP_KEYCLOAK_PORT:-28443}
MANAGEMENT_PORT=${AAP_KEYCLOAK_MANAGEMENT_PORT:-28444}
HEAP=${AAP_KEYCLOAK_HEAP:-384m}

home=$AAP_SERVICES_DIR/keycloak
data=$RUN/keycloak
server=https://127.0.0.1:$PORT
issuer=$server/realms/aap

install_keycloak() {
  if finished "$home" && [[ "$(cat "$home/pins" 2>/dev/null)" == "$KEYCLOAK_VERSION" ]]; then return 0; fi
  need curl
  rm -rf "$home"
  mkdir -p "$home"
  maven_file "$home/download" "org.keycloak:keycloak-quarkus-dist:$KEYCLOAK_VERSION:tar.gz"
  tar -xzf "$home"/download/*.tar.gz -C "$home" --strip-components=1
  rm -rf "$home/download"
  use_java 17
  say "building Keycloak's configuration (a minute)"
  JAVA_HOME=$(java_home) "$home/bin/kc.sh" build --db=dev-mem --features-disabled=organization >"$home/build.log" 2>&1 ||
    die "the build of Keycloak failed: see $home/build.log"
  printf '%s\n' "$KEYCLOAK_VERSION" >"$home/pins"
  mark_finished "$home"
}

java_home() { dirname "$(dirname "$(readlink -f "$JAVA")")"; }

write_realm() {
  mkdir -p "$home/data/import"
  cat >"$home/data/import/aap.json" <<'CONFIG'
{
  "realm": "aap", "enabled": true,
  "oauth2DevicePollingInterval": 1, "oauth2DeviceCodeLifespan": 120,
  "groups": [{"name": "platform-admins"}, {"name": "platform-viewers"}],
  "clients": [
    {"clientId": "aap-cli", "enabled": true, "publicClient": true, "standardFlowEnabled": true,
     "redirectUris": ["http://127.0.0.1/*"],
     "attributes": {"oauth2.device.authorization.grant.enabled": "true", "pkce.code.challenge.method": "S256"},
     "protocolMappers": [{"name": "groups", "protocol": "openid-connect",
       "protocolMapper": "oidc-group-membership-mapper",
       "config": {"claim.name": "groups", "full.path": "false", "id.token.claim": "true"}}]}
  ],
  "users": [
    {"username": "alice", "enabled": true, "email": "alice@example.test", "emailVerified": true,
     "firstName": "Alice", "lastName": "Admin", "groups": ["/platform-admins"],
     "credentials": [{"type": "password", "value": "alice"}]},
    {"username": "bob", "enabled": true, "email": "bob@example.test", "emailVerified": true,
     "firstName": "Bob", "lastName": "Viewer", "groups": ["/platform-viewers"],
     "credentials": [{"type": "password", "value": "bob"}]},
    {"username": "carol", "enabled": true, "email": "carol@example.test", "emailVerified": true,
     "firstName": "Carol", "lastName": "Nobody",
     "credentials": [{"type": "password", "value": "carol"}]}
  ]
}
CONFIG
}

start_keycloak() {
  local name opens=()
  use_java 17
  if ! daemon_running keycloak; then
    make_cert "$data/tls"
    write_realm
    ports_free keycloak "$PORT" "$MANAGEMENT_PORT"
    for name in java.util java.util.concurrent java.security java.lang; do
      opens+=("--add-opens=java.base/$name=ALL-UNNAMED")
    done
    # What bin/kc.sh runs, without the shell between: its pid is the server's.
    KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=admin \
      start_daemon keycloak "$data/keycloak.log" "$JAVA" "-Xmx$HEAP" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
      "${opens[@]}" "-Djava.io.tmpdir=$data" "-Dkc.home.dir=$home" "-Djboss.server.config.dir=$home/conf" \
      -Djava.util.logging.manager=org.jboss.logmanager.LogManager -Dpicocli.disable.closures=true \
      -Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory \
      -cp "$home/lib/quarkus-run.jar" io.quarkus.bootstrap.runner.QuarkusEntryPoint \
      start --optimized --import-realm --cache=local --hostname-strict=false \
      --http-host=127.0.0.1 "--https-port=$PORT" "--http-management-port=$MANAGEMENT_PORT" \
      "--https-certificate-file=$data/tls/server.crt" "--https-certificate-key-file=$data/tls/server.key"
  fi
  wait_for 300 keycloak http_ok "$issuer/.well-known/openid-configuration" --cacert "$data/tls/ca.crt"
  env_line AAP_TEST_KEYCLOAK "$issuer"
  env_line AAP_TEST_KEYCLOAK_CA "$data/tls/ca.crt"
}

ask() { curl -sSf --noproxy '*' --cacert "$data/tls/ca.crt" --max-time 60 "$@"; }

# The action of the page's only form, with HTML's &amp; undone.
form_action() { grep -o 'action="[^"]*"' | head -1 | sed 's/^action="//; s/"$//; s/&amp;/\&/g'; }

# Logs in at the form of a page; further arguments are curl's. Prints what answers.
log_in() {
  local url=$1 user=$2 password=$3 cookies=$4 action
  shift 4
  action=$(ask -L -b "$cookies" -c "$cookies" "$url" | form_action) || true
  [[ "$action" == http* ]] || die "no log-in form at $url (a wrong or used user code?)"
  ask -b "$cookies" -c "$cookies" --data-urlencode "username=$user" --data-urlencode "password=$password" "$@" "$action"
}

approve_keycloak() {
  local url=$1 user=$2 password=$3 cookies page action
  cookies=$(mktemp)
  page=$(log_in "$url" "$user" "$password" "$cookies" -L)
  action=$(form_action <<<"$page") || true
  [[ "$action" == *consent* ]] || die "the log-in of $user was refused"
  if [[ "$action" == /* ]]; then action=$server$action; fi
  # The consent form carries a hidden code.
  ask -L -b "$cookies" -c "$cookies" \
    --data-urlencode "code=$(grep -o 'name="code" value="[^"]*"' <<<"$page" | sed 's/.*value="//; s/"$//')" \
    -d "${4:-accept}=Yes" "$action" >/dev/null
  rm -f "$cookies"
}

visit_keycloak() {
  local cookies place
  cookies=$(mktemp)
  place=$(log_in "$1" "$2" "$3" "$cookies" -o /dev/null -w '%{redirect_url}')
  rm -f "$cookies"
  [[ "$place" == http* ]] || die "the log-in of $2 was refused"
  printf '%s\n' "$place"
}

admin() {
  local token
  token=$(ask -d grant_type=password -d client_id=admin-cli -d username=admin -d password=admin \
    "$server/realms/master/protocol/openid-connect/token" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  ask -H "Authorization: Bearer $token" "$@"
}

first_id() { grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4; }

change_group() {
  local method=$1 user group
  user=$(admin "$server/admin/realms/aap/users?username=$2&exact=true" | first_id)
  group=$(admin "$server/admin/realms/aap/groups?search=$3&exact=true" | first_id)
  admin -X "$method" "$server/admin/realms/aap/users/$user/groups/$group"
}

join_keycloak() { change_group PUT "$@"; }
leave_keycloak() { change_group DELETE "$@"; }

stop_keycloak() { stop_daemon keycloak 20; }
status_keycloak() { daemon_status keycloak; }

service_main keycloak "$@"
