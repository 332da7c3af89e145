#!/bin/sh
. "$(dirname "$0")/ringlog-run"
ringlog_run kafka-log-dirs "$@"
