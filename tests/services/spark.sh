#!/usr/bin/env bash
# Apache Spark with a Spark Connect server (local master) from Maven jars.
#   spark.sh install | start | stop [--purge] | status
# For Apache Spark 4 over Spark Connect: the jars are about 350 MB, so it is started only where it is asked for.
# AAP_SPARK_TOKEN=... asks clients for that bearer token.
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"

SPARK_VERSION=4.2.0
PORT=${AAP_SPARK_PORT:-25002}
HEAP=${AAP_SPARK_HEAP:-1g}
CORES=${AAP_SPARK_CORES:-2}
TOKEN=${AAP_SPARK_TOKEN:-}

home=$AAP_SERVICES_DIR/spark
data=$RUN/spark

install_spark() {
  finished "$home" && return
  rm -rf "$home"
  # The end of a session asks for a class of MLlib.
  maven_jars "$home/lib" "org.apache.spark:spark-connect_2.13:$SPARK_VERSION" \
    "org.apache.spark:spark-sql_2.13:$SPARK_VERSION" "org.apache.spark:spark-mllib_2.13:$SPARK_VERSION"
  mark_finished "$home"
}

start_spark() {
  local name options=()
  use_java 17
  if ! daemon_running spark; then
    mkdir -p "$data"
    # What Spark's own launcher opens (JavaModuleOptions).
    for name in lang lang.invoke lang.reflect io net nio util util.concurrent util.concurrent.atomic; do
      options+=("--add-opens=java.base/java.$name=ALL-UNNAMED")
    done
    for name in jdk.internal.ref sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar; do
      options+=("--add-opens=java.base/$name=ALL-UNNAMED")
    done
    if [[ -n "$TOKEN" ]]; then options+=("-Dspark.connect.authenticate.token=$TOKEN"); fi
    start_daemon spark "$data/spark.log" "$JAVA" "-Xmx$HEAP" -XX:+UseSerialGC "${options[@]}" \
      -Djdk.reflect.useDirectMethodHandle=false -Dio.netty.tryReflectionSetAccessible=true \
      "-Djava.io.tmpdir=$data" "-Duser.dir=$data" -cp "$home/lib/*" \
      -Dspark.app.name=aap-test "-Dspark.master=local[$CORES]" -Dspark.ui.enabled=false \
      -Dspark.driver.host=127.0.0.1 -Dspark.driver.bindAddress=127.0.0.1 \
      -Dspark.connect.grpc.binding.address=127.0.0.1 "-Dspark.connect.grpc.binding.port=$PORT" \
      "-Dspark.local.dir=$data" "-Dspark.sql.warehouse.dir=$data/warehouse" \
      "-Dspark.sql.shuffle.partitions=$CORES" org.apache.spark.sql.connect.service.SparkConnectServer
  fi
  wait_port 127.0.0.1 "$PORT" 300 spark
  echo "AAP_TEST_SPARK=sc://127.0.0.1:$PORT"
  if [[ -n "$TOKEN" ]]; then echo "AAP_TEST_SPARK_TOKEN=$TOKEN"; fi
}

stop_spark() { stop_daemon spark 20; }
status_spark() { daemon_status spark; }

service_main spark "$@"
