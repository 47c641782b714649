#!/usr/bin/env bash
# OpenSearch, one node without the security plugin (plain HTTP, no log-in), from a zip on Maven.
#   opensearch.sh install | start | stop [--purge] | status
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"

# The last release whose whole distribution is on Maven; needs Java 21 or later.
OPENSEARCH_VERSION=3.6.0
PORT=${AAP_OPENSEARCH_PORT:-29200}
TRANSPORT_PORT=${AAP_OPENSEARCH_TRANSPORT_PORT:-29300}
HEAP=${AAP_OPENSEARCH_HEAP:-512m}

home=$AAP_SERVICES_DIR/opensearch
data=$RUN/opensearch

install_opensearch() {
  if finished "$home" && [[ "$(cat "$home/version" 2>/dev/null)" == "$OPENSEARCH_VERSION" ]]; then return 0; fi
  rm -rf "$home"
  need unzip
  maven_file "$home/download" "org.opensearch.distribution.integ-test-zip:opensearch:$OPENSEARCH_VERSION:zip"
  unzip -q "$home"/download/*.zip -d "$home/download"
  mv "$home/download/opensearch-$OPENSEARCH_VERSION"/{lib,modules,agent} "$home/"
  rm -rf "$home/download"
  mkdir "$home/plugins"
  printf '%s\n' "$OPENSEARCH_VERSION" >"$home/version"
  mark_finished "$home"
}

write_config() {
  mkdir -p "$data/config" "$data/tmp"
  cat >"$data/config/opensearch.yml" <<CONFIG
cluster.name: aap-test
node.name: aap-1
discovery.type: single-node
network.host: 127.0.0.1
http.port: $PORT
transport.port: $TRANSPORT_PORT
path.data: $data/data
path.logs: $data/logs
cluster.routing.allocation.disk.threshold_enabled: false
CONFIG
  cat >"$data/config/log4j2.properties" <<'CONFIG'
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
CONFIG
}

start_opensearch() {
  use_java 21
  if ! daemon_running opensearch; then
    write_config
    # OpenSearch refuses root, which it asks for by native code (JNA); without that it cannot tell.
    start_daemon opensearch "$data/opensearch.log" "$JAVA" "-Xms$HEAP" "-Xmx$HEAP" -XX:+UseSerialGC \
      -XX:TieredStopAtLevel=1 -Djna.nounpack=true -Djna.nosys=true -Djna.boot.library.path=/nonexistent \
      "-Djava.io.tmpdir=$data/tmp" -Djava.locale.providers=SPI,CLDR -Dlog4j2.disable.jmx=true \
      -Dio.netty.noUnsafe=true "-Dopensearch.path.home=$home" "-Dopensearch.path.conf=$data/config" \
      "-javaagent:$home/agent/opensearch-agent.jar" -Dopensearch.distribution.type=zip -Dopensearch.bundled_jdk=false -cp "$home/lib/*" \
      org.opensearch.bootstrap.OpenSearch
  fi
  wait_for 300 opensearch curl -sf "http://127.0.0.1:$PORT/_cluster/health?wait_for_status=yellow&timeout=1s"
  echo "AAP_TEST_OPENSEARCH=http://127.0.0.1:$PORT"
}

stop_opensearch() { stop_daemon opensearch 30; }
status_opensearch() { daemon_status opensearch; }

service_main opensearch "$@"
