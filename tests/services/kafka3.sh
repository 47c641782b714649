#!/usr/bin/env bash
# Three brokers of Kafka beside the one of `kafka.sh`: replication 3, two copies before an acknowledgement.
#   kafka3.sh ACTION...     the actions of kafka.sh
#   fault kafka3-2 KILL     kills the second one: its pid file stands in $RUN under this name
# Ports: as kafka.sh, from AAP_KAFKA3_PORT.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/lib.sh"
outer=$RUN
export AAP_SERVICES_RUN_DIR=$outer/kafka3 AAP_KAFKA_PORT=${AAP_KAFKA3_PORT:-29192} KAFKA_NODES=3
"$here/kafka.sh" "$@" | sed 's/^AAP_TEST_KAFKA/AAP_TEST_KAFKA3/'
mkdir -p "$outer"
for node in 1 2 3; do
  if [[ -f $outer/kafka3/kafka-$node.pid ]]; then ln -sfn "kafka3/kafka-$node.pid" "$outer/kafka3-$node.pid"; fi
done
