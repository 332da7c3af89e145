"""The tutorial's loop with kafka-python, as it is written there, with a clock around it.

usage: tutorial.py produce BOOTSTRAP TOPIC COUNT PARTITIONS OUT [API_VERSION]
       tutorial.py consume BOOTSTRAP TOPIC COUNT PARTITIONS OUT [API_VERSION] GROUP READY

produce sends {"num": n} to partition n % PARTITIONS; consume reads them with a group, checks them and
commits. OUT gets JSON with times in nanoseconds of CLOCK_MONOTONIC, which all processes of a machine
share. READY is a file that is made when the consumer has its partitions, or -.
"""
import json
import pathlib
import sys
import time

from kafka import KafkaConsumer, KafkaProducer


def produce(bootstrap, topic, count, partitions, version):
    sent, acked = [0] * count, [0] * count
    began = time.monotonic_ns()
    producer = KafkaProducer(bootstrap_servers=[bootstrap],
                             acks=1,
                             value_serializer=lambda data: json.dumps(data).encode("utf-8"), **version)
    errors = []
    for num in range(count):
        sent[num] = time.monotonic_ns()
        future = producer.send(topic, {"num": num}, partition=num % partitions)
        future.add_callback(lambda _, num=num: acked.__setitem__(num, time.monotonic_ns()))
        future.add_errback(errors.append)
    producer.flush()
    ended = time.monotonic_ns()
    producer.close()
    if errors or not all(acked):
        sys.exit(f"{len(errors)} records were refused, {acked.count(0)} not acknowledged: {errors[:1]}")
    told = ["acks", "batch_size", "linger_ms", "max_in_flight_requests_per_connection", "enable_idempotence"]
    settings = ", ".join(f"{name}={producer.config[name]}" for name in told if name in producer.config)
    return {"began_ns": began, "ended_ns": ended, "settings": settings, "sent_ns": sent, "acked_ns": acked}


def consume(bootstrap, topic, count, partitions, version, group, ready):
    received, due = [0] * count, list(range(partitions))
    began = time.monotonic_ns()
    consumer = KafkaConsumer(topic, bootstrap_servers=[bootstrap], group_id=group,
                             auto_offset_reset="earliest", consumer_timeout_ms=30000,
                             value_deserializer=lambda data: json.loads(data.decode("utf-8")), **version)
    seen = 0
    if ready != "-":  # the topic is still empty
        deadline = time.monotonic() + 30
        while not consumer.assignment():
            consumer.poll(timeout_ms=10)
            if time.monotonic() > deadline:
                sys.exit("no partitions within 30 s")
        pathlib.Path(ready).touch()
    for message in consumer:
        num = message.value["num"]
        if num != due[message.partition]:
            sys.exit(f"partition {message.partition}, offset {message.offset}: {num} came, "
                     f"{due[message.partition]} was due")
        due[message.partition] += partitions
        received[num] = time.monotonic_ns()
        seen += 1
        if seen == count:
            break
    consumer.close()  # commits
    ended = time.monotonic_ns()
    if seen < count:
        sys.exit(f"only {seen} of {count} records came within 30 s")
    return {"began_ns": began, "ended_ns": ended, "received_ns": received}


def main():
    what, bootstrap, topic, count, partitions, out, api_version, *rest = sys.argv[1:]
    version = {}
    if api_version != "auto":
        version["api_version"] = tuple(int(part) for part in api_version.split(","))
    if what == "produce":
        result = produce(bootstrap, topic, int(count), int(partitions), version)
    else:
        result = consume(bootstrap, topic, int(count), int(partitions), version, *rest)
    pathlib.Path(out).write_text(json.dumps(result))


main()
