"""Consumes a restored topic with a plain client: exactly the flights up to a moment, each as it was.

usage: consume.py BOOTSTRAP TOPIC TRUTH UNTIL_MS
"""
import pickle
import sys

from confluent_kafka import Consumer, TopicPartition

bootstrap, topic, truth_file, until = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
expected = {}
for partition, offset, *record in sorted(pickle.load(open(truth_file, "rb")), key=lambda row: row[:2]):
    if record[2] <= until:
        expected.setdefault(partition, []).append(tuple(record))

consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"check-{topic}", "enable.auto.commit": False})
partitions = consumer.list_topics(topic, 10).topics[topic].partitions
found, ends = {}, {}
for partition in partitions:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
    ends[partition] = high - low
consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
total, silent = sum(ends.values()), 0
while sum(map(len, found.values())) < total and silent < 30:
    messages = consumer.consume(10000, 1.0)
    silent = 0 if messages else silent + 1
    for message in messages:
        assert message.error() is None, message.error()
        record = (message.key(), message.value(), message.timestamp()[1], message.headers() or [])
        found.setdefault(message.partition(), []).append(record)
assert len(partitions) == 6, partitions
assert found == expected, {p: (len(found.get(p, [])), len(expected.get(p, []))) for p in range(6)}
print(sum(map(len, found.values())))
