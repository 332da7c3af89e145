#!/bin/sh
# The broker: kafka-server-start.sh [-daemon] server.properties [--override property=value]*
. "$(dirname "$0")/ringlog-run"
usage() {
  echo "USAGE: $0 [-daemon] server.properties [--override property=value]*"
  exit 1
}
[ $# -ge 1 ] || usage
if [ "$1" = -daemon ]; then
  RINGLOG_DAEMON=1
  shift
  [ $# -ge 1 ] || usage
fi
ringlog_server kafkaServer serve "$@"
