"""Reads archive files with pyarrow, DuckDB and fastavro and compares them with what was written.

usage: read.py EXPECTED.json; prints a line for each file and one for the Hive-style folder.
"""
import datetime
import json
import sys

import duckdb
import fastavro
import pyarrow
import pyarrow.parquet

task = json.load(open(sys.argv[1]))
EPOCH = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
MILLISECOND = datetime.timedelta(milliseconds=1)


def unhex(text):
    return None if text is None else bytes.fromhex(text)


expected = [
    (task["topic"], task["partition"], row["offset"], row["timestamp"], row["timestamp_type"], unhex(row["key"]),
     unhex(row["value"]), [(key, unhex(value)) for key, value in row["headers"]])
    for row in task["rows"]
]
# The rows of each block.
groups = [expected[:task["first_block"]], expected[task["first_block"]:]]


def same(found, reader):
    assert len(found) == len(expected), (reader, len(found))
    for index, (left, right) in enumerate(zip(found, expected)):
        assert left == right, (reader, index, left, right)


def as_tuple(row):
    """A row of pyarrow or fastavro, whose timestamps are datetimes."""
    at = row["timestamp"]
    return (row["topic"], row["partition"], row["offset"], None if at is None else (at - EPOCH) // MILLISECOND,
            row["timestamp_type"], row["key"], row["value"], [(each["key"], each["value"]) for each in row["headers"]])


def check_metadata(found, last_offset):
    wanted = {"lakeferry.version", "lakeferry.cluster_id", "lakeferry.first_offset"} | set(last_offset)
    assert {key for key in found if not key.startswith("avro.")} == wanted, found
    assert found["lakeferry.cluster_id"] == task["cluster_id"]
    assert int(found["lakeferry.first_offset"]) == expected[0][2]


def check_shape(file, codec):
    element = pyarrow.struct([pyarrow.field("key", pyarrow.string(), False), ("value", pyarrow.binary())])
    assert file.schema_arrow.remove_metadata() == pyarrow.schema([
        pyarrow.field("topic", pyarrow.string(), False),
        pyarrow.field("partition", pyarrow.int32(), False),
        pyarrow.field("offset", pyarrow.int64(), False),
        ("timestamp", pyarrow.timestamp("ms", "UTC")),
        ("timestamp_type", pyarrow.string()),
        ("key", pyarrow.binary()),
        ("value", pyarrow.binary()),
        pyarrow.field("headers", pyarrow.list_(pyarrow.field("element", element, False)), False),
    ]), file.schema_arrow
    found = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    check_metadata(found, ["lakeferry.last_offset"])
    assert int(found["lakeferry.last_offset"]) == expected[-1][2]
    assert file.metadata.num_row_groups == len(groups)
    for index, rows in enumerate(groups):
        group = file.metadata.row_group(index)
        assert group.num_rows == len(rows)
        assert [(each.column_index, each.descending) for each in group.sorting_columns] == [(2, False)]
        columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
        counted = {path for path, column in columns.items() if column.is_stats_set}
        assert counted == {"offset", "timestamp"}, counted
        indexed = {path for path, column in columns.items() if column.has_column_index}
        assert indexed == {"offset", "timestamp"}, indexed
        assert all(column.has_offset_index for column in columns.values())
        offset, timestamp = columns["offset"].statistics, columns["timestamp"].statistics
        assert (offset.min, offset.max, offset.null_count) == (rows[0][2], rows[-1][2], 0)
        times = [row[3] for row in rows if row[3] is not None]
        assert (timestamp.min_raw, timestamp.max_raw) == (min(times), max(times))
        assert timestamp.null_count == len(rows) - len(times)
        assert columns["value"].compression == {"none": "UNCOMPRESSED", "lz4_raw": "LZ4"}.get(codec, codec.upper())
        assert "RLE_DICTIONARY" in columns["topic"].encodings
        assert "RLE_DICTIONARY" not in columns["value"].encodings + columns["key"].encodings


def check_parquet(path, codec):
    file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    check_shape(file, codec)
    table = file.read()
    table.validate(full=True)
    same([as_tuple(row) for row in table.to_pylist()], "pyarrow")
    query = """select topic, partition, "offset", epoch_ms("timestamp"), timestamp_type, key, value, headers
               from read_parquet(?, hive_partitioning = false) order by "offset" """
    same([(*row[:7], [(each["key"], each["value"]) for each in row[7]])
          for row in duckdb.execute(query, [path]).fetchall()], "duckdb")
    # A reader that skips pages by their statistics still sees every row that it asks for.
    middle = expected[len(expected) // 2][2]
    above = duckdb.execute("""select count(*) from read_parquet(?) where "offset" > ?""", [path, middle]).fetchone()
    assert above == (sum(row[2] > middle for row in expected),), above


def check_avro(path, codec):
    with open(path, "rb") as file:
        reader = fastavro.reader(file)
        check_metadata(reader.metadata, [])
        assert reader.codec == codec
        assert [field["name"] for field in reader.writer_schema["fields"]] == [
            "topic", "partition", "offset", "timestamp", "timestamp_type", "key", "value", "headers"]
        same([as_tuple(row) for row in reader], "fastavro")
    with open(path, "rb") as file:
        blocks = [block.num_records for block in fastavro.block_reader(file)]
        assert len(blocks) > len(groups) and sum(blocks) == len(expected), blocks


for file in task["files"]:
    {"archive.parquet": check_parquet, "archive.avro": check_avro}[file["format"]](file["path"], file["codec"])
    print(file["format"], file["codec"])

# All the Parquet files as one table, which is what a lake is.
parquet = [file["path"] for file in task["files"] if file["format"] == "archive.parquet"]
counted = duckdb.execute("select count(*), count(value), sum(len(headers)) from read_parquet($1)", [parquet]).fetchone()
once = (len(expected), sum(row[6] is not None for row in expected), sum(len(row[7]) for row in expected))
assert counted == tuple(len(parquet) * count for count in once), (counted, once)
print("all", counted[0])
