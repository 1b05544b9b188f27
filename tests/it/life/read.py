"""Reads one partition of a lake as a stranger does, with pyarrow, DuckDB and docs/manifest-format.md only.

Arguments: the folder with the topics, topic, partition, lineage (0: the newest). Prints one JSON document: the rows, and
what the manifests say of offsets without rows. Fails where the files are not what the manifests say.
"""

import hashlib
import json
import pathlib
import sys

import duckdb
import pyarrow.parquet as parquet

folder, topic, partition, wanted = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

COUNT = """select count(*), min("offset"), max("offset") from read_parquet(?, hive_partitioning = false)"""

previous, entries = None, []
chain = sorted((folder / topic / "_manifests" / f"partition={partition}").glob("[0-9]*.json"))
for seq, path in enumerate(chain):
    text = path.read_bytes()
    entry = json.loads(text)
    assert (entry["seq"], entry["previous_sha256"]) == (seq, previous), path
    assert path.name == f"{seq:020}.json", path
    previous = hashlib.sha256(text).hexdigest()
    entries.append(entry)

end = entries[-1]
lines = {line["lineage"]: line for line in end["lineages"]}
lineage, before = wanted or end["source"]["lineage"], None
rows, missing, gaps = [], {}, []
while lineage is not None:
    own, spans = [], []
    for entry in (entry for entry in entries if entry["source"]["lineage"] == lineage):
        for file in entry["files"]:
            data = (folder / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]
            table = parquet.read_table(folder / file["path"], partitioning=None)
            assert table.num_rows == file["records"], file["path"]
            counted = duckdb.execute(COUNT, [str(folder / file["path"])]).fetchone()
            assert counted == (file["records"], file["first_offset"], file["last_offset"]), counted
            found = table.to_pylist()
            assert all((row["topic"], row["partition"]) == (topic, partition) for row in found)
            own += found
            spans.append((file["span_from"], file["span_to"]))
            for reason, count in file["missing"].items():
                missing[reason] = missing.get(reason, 0) + count
        gaps += [[gap["from"], gap["to"], gap["reason"]] for gap in entry["gaps"]]
        spans += [(gap["from"], gap["to"]) for gap in entry["gaps"]]
    spans.sort()
    assert all(left[1] + 1 == right[0] for left, right in zip(spans, spans[1:])), spans
    rows = [row for row in own if before is None or row["offset"] < before] + rows
    continues = lines[lineage]["continues"]
    lineage, before = (continues["lineage"], continues["before"]) if continues else (None, None)

offsets = [row["offset"] for row in rows]
assert offsets == sorted(set(offsets)), "every offset once, in order"
text = lambda value: None if value is None else value.decode()
print(json.dumps({
    "rows": [
        [row["offset"], None if row["timestamp"] is None else round(row["timestamp"].timestamp() * 1000),
         row["timestamp_type"], text(row["key"]), text(row["value"])]
        for row in rows
    ],
    "missing": missing,
    "gaps": sorted(gaps),
    "resume_offset": end["resume_offset"],
    "topic": next(entry["topic"] for entry in reversed(entries) if "topic" in entry),
}))
