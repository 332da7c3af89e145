#!/bin/sh
# The ZooKeeper service alone: zookeeper-server-start.sh [-daemon] zookeeper.properties
. "$(dirname "$0")/ringlog-run"
usage() {
  echo "USAGE: $0 [-daemon] zookeeper.properties"
  exit 1
}
[ $# -ge 1 ] || usage
if [ "$1" = -daemon ]; then
  RINGLOG_DAEMON=1
  shift
  [ $# -ge 1 ] || usage
fi
ringlog_server zookeeper zookeeper "$@"
