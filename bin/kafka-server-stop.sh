#!/bin/sh
# Stops the brokers of this machine in good order.
. "$(dirname "$0")/ringlog-run"
if ! ringlog_stop kafkaServer serve; then
  echo "No kafka server to stop"
  exit 1
fi
