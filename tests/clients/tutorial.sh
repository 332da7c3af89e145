#!/usr/bin/env bash
# The tutorial, word for word and in order, on its own ports and directories: run by tests/clients/run
# within namespaces of its own (unshare -rnm), so that 2181, 9092 and /tmp are nobody else's.
#
#     tutorial.sh ROOT PYTHON        with RINGLOG_BIN set; prints what went wrong and ends with 1
set -euo pipefail
root=$1 python=$2
ip link set lo up
mount --bind "$root" /mnt
case $RINGLOG_BIN in "$root"/*) RINGLOG_BIN=/mnt/${RINGLOG_BIN#"$root"/} ;; esac
mount -t tmpfs tmpfs /tmp
export RINGLOG_BIN LOG_DIR=/tmp/logs
cd /mnt

trap 'code=$?; [ $code = 0 ] || { echo "line $LINENO, exit code $code"; tail -n 30 /tmp/*.log; }' EXIT

# wait_for FILE TEXT: until the server has said it.
wait_for() {
    for _ in $(seq 3000); do
        grep -q "$2" "$1" 2>/dev/null && return
        sleep 0.01 # the poll's pause
    done
    echo "$1 never said: $2"
    return 1
}

# same WHAT FOUND EXPECTED
same() {
    [ "$2" = "$3" ] || { printf '%s:\n%s\ninstead of:\n%s\n' "$1" "$2" "$3"; return 1; }
}

bin/zookeeper-server-start.sh config/zookeeper.properties >/tmp/zookeeper.log 2>&1 &
wait_for /tmp/zookeeper.log 'binding to port'
bin/kafka-server-start.sh config/server.properties >/tmp/kafka.log 2>&1 &
wait_for /tmp/kafka.log '\[KafkaServer id=0\] started'

# The stock tools refuse the first line for lack of --partitions.
created=$(bin/kafka-topics.sh --create --zookeeper localhost:2181 --replication-factor 1 --topic first)
same 'kafka-topics --create' "$created" 'Created topic first.'
bin/kafka-topics.sh --create --zookeeper localhost:2181 --replication-factor 1 --partitions 1 --topic second
same 'kafka-topics --list' "$(bin/kafka-topics.sh --list --zookeeper localhost:2181)" $'first\nsecond'

printf 'This is a message\nThis is another message\n' |
    bin/kafka-console-producer.sh --broker-list localhost:9092 --topic first
read_back=$(bin/kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic first \
    --from-beginning --max-messages 2)
same 'kafka-console-consumer' "$read_back" $'This is a message\nThis is another message'

"$python" tests/clients/python/tutorial.py produce localhost:9092 second 1000 --api-version 0,10,0
"$python" tests/clients/python/tutorial.py consume localhost:9092 second 1000 --group mine \
    --api-version 0,10,0 >/tmp/consumed
same 'records of the kafka-python loop' "$(wc -l </tmp/consumed)" 1000

bin/kafka-server-stop.sh
wait_for /tmp/kafka.log 'shut down completed'
bin/zookeeper-server-stop.sh
wait
