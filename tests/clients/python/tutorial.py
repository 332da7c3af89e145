"""The tutorial's loop with kafka-python: a JSON producer and a consumer with a group.

usage: tutorial.py produce|consume BOOTSTRAP TOPIC COUNT [--api-version 0,10,0] [--compression C]
                   [--group G] [--from N] [--paced]
produce sends {"num": n} for n in FROM..FROM+COUNT to partition 0 and prints `acked n` for each.
consume prints `offset num` for COUNT records, closes (which commits), and ends.
"""
import argparse
import json
import sys
import time

from kafka import KafkaConsumer, KafkaProducer


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["produce", "consume"])
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("count", type=int)
    parser.add_argument("--api-version")
    parser.add_argument("--compression")
    parser.add_argument("--group")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--paced", action="store_true", help="about 2000 records a second")
    return parser.parse_args()


def produce(args, version):
    extra = dict(version)
    if args.compression:
        extra["compression_type"] = args.compression
    if args.paced:  # the crash test: the producer must outlive the broker
        extra.update(acks="all", retries=1000, max_block_ms=60000)
    producer = KafkaProducer(
        bootstrap_servers=[args.bootstrap],
        value_serializer=lambda data: json.dumps(data).encode("utf-8"),
        **extra,
    )
    futures = []
    for num in range(args.first, args.first + args.count):
        futures.append(producer.send(args.topic, {"num": num}, partition=0))
        if args.paced and num % 100 == 99:
            for future in futures[-100:]:
                future.get(timeout=60)
            print("acked", num, flush=True)
            time.sleep(0.01)  # the pace; nothing waits for it
    producer.flush()
    for future in futures:
        future.get(timeout=60)
    if not args.paced:
        print("acked", args.first + args.count - 1, flush=True)
    producer.close()


def consume(args, version):
    extra = dict(version)
    consumer = KafkaConsumer(
        args.topic,
        bootstrap_servers=[args.bootstrap],
        group_id=args.group,
        auto_offset_reset="earliest",
        consumer_timeout_ms=30000,
        value_deserializer=lambda data: json.loads(data.decode("utf-8")),
        **extra,
    )
    seen = 0
    for message in consumer:
        print(message.offset, message.value["num"])
        seen += 1
        if seen == args.count:
            break
    sys.stdout.flush()
    consumer.close()
    if seen < args.count:
        sys.exit(f"only {seen} of {args.count} records came within 30 s")


def main():
    args = options()
    version = {}
    if args.api_version:
        version["api_version"] = tuple(int(part) for part in args.api_version.split(","))
    (produce if args.what == "produce" else consume)(args, version)


main()
