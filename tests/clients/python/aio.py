"""aiokafka: an idempotent producer and a group consumer in one event loop.

usage: aio.py BOOTSTRAP TOPIC COUNT COMPRESSION GROUP
"""
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


async def main(bootstrap, topic, count, compression, group):
    compression = None if compression == "none" else compression
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", compression_type=compression)
    await producer.start()
    futures = [await producer.send(topic, str(number).encode(), partition=0) for number in range(count)]
    await asyncio.gather(*futures)
    await producer.stop()
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    await consumer.start()
    for _ in range(count):
        message = await asyncio.wait_for(consumer.getone(), 30)
        print(message.offset, message.value.decode())
    await consumer.stop()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]))
