"""librdkafka through confluent-kafka: an idempotent producer, a group consumer, the admin client.

usage: confluent.py produce|consume|admin BOOTSTRAP TOPIC COUNT [COMPRESSION|GROUP] [--paced]
"""
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic


def produce(bootstrap, topic, count, compression, paced):
    producer = Producer({
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all",
        "compression.type": compression, "message.timeout.ms": 120000, "linger.ms": 2,
    })
    done = [0]

    def delivered(error, message):
        if error is not None:
            sys.exit(f"record {message.value()} was not delivered: {error}")
        done[0] += 1
        if done[0] % 100 == 0:
            print("acked", done[0], flush=True)

    for number in range(count):
        producer.produce(topic, str(number).encode(), partition=0, on_delivery=delivered)
        producer.poll(0)
        if paced and number % 20 == 0:
            producer.poll(0.005)
    left = producer.flush(120)
    if left or done[0] != count:
        sys.exit(f"{left} records left in the queue, {done[0]} of {count} delivered")


def consume(bootstrap, topic, count, group):
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    })
    consumer.subscribe([topic])
    deadline = time.monotonic() + 30
    seen = 0
    while seen < count:
        if time.monotonic() > deadline:
            sys.exit(f"only {seen} of {count} records came within 30 s")
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        print(message.offset(), message.value().decode())
        seen += 1
    consumer.commit(asynchronous=False)
    consumer.close()


def admin(bootstrap, topic):
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])[topic].result(30)
    partitions = client.list_topics(topic, timeout=30).topics[topic].partitions
    assert sorted(partitions) == [0, 1, 2], partitions
    client.delete_topics([topic])[topic].result(30)
    deadline = time.monotonic() + 30
    while topic in client.list_topics(timeout=30).topics:
        assert time.monotonic() < deadline, f"{topic} is still listed 30 s after its deletion"


what, bootstrap, topic, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
if what == "produce":
    produce(bootstrap, topic, count, sys.argv[5], "--paced" in sys.argv)
elif what == "consume":
    consume(bootstrap, topic, count, sys.argv[5])
else:
    admin(bootstrap, topic)
