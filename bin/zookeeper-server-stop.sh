#!/bin/sh
# Stops the ZooKeeper services of this machine in good order.
. "$(dirname "$0")/ringlog-run"
if ! ringlog_stop zookeeper zookeeper; then
  echo "No zookeeper server to stop"
  exit 1
fi
