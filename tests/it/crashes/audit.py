"""Reads an archived topic by docs/manifest-format.md alone, and demands that every number is there exactly once.

usage: audit.py PLACE TOPIC COUNT

PLACE is the folder that `topics.dir` names, or its URL at WebHDFS. The records of TOPIC hold the numbers from 0 to
COUNT - 1, each at the beginning of a value, before a space; in each partition they ascend. Prints what it saw as JSON.
"""
import collections
import hashlib
import json
import os
import re
import sys

import pyarrow
import pyarrow.parquet
import requests

SEAL = b',"self_sha256":"'
place, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])


def names(path):
    """The names in a folder; none where there is none."""
    if not place.startswith("http://"):
        folder = os.path.join(place, path)
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    answer = requests.get(f"{place}/{path}", params={"op": "LISTSTATUS"}, timeout=60)
    if answer.status_code == 404:
        return []
    answer.raise_for_status()
    return sorted(status["pathSuffix"] for status in answer.json()["FileStatuses"]["FileStatus"])


def read(path):
    if not place.startswith("http://"):
        with open(os.path.join(place, path), "rb") as file:
            return file.read()
    answer = requests.get(f"{place}/{path}", params={"op": "OPEN"}, timeout=60)
    answer.raise_for_status()
    return answer.content


def chain(partition):
    """Every entry of a partition, in order, each checked against the one before."""
    folder = f"{topic}/_manifests/partition={partition}"
    numbers = [int(name[:20]) for name in names(folder) if re.fullmatch(r"\d{20}\.json", name)]
    assert numbers == list(range(len(numbers))), f"{folder} has a hole: {numbers}"
    previous, entries = None, []
    for seq in numbers:
        path = f"{folder}/{seq:020}.json"
        raw = read(path)
        entry = json.loads(raw)
        assert (entry["format"], entry["version"], entry["seq"]) == ("lakeferry.manifest", 1, seq), path
        body, _, seal = raw.rpartition(SEAL)
        assert seal == hashlib.sha256(body + b"}").hexdigest().encode() + b'"}', f"{path} was altered"
        assert entry["previous_sha256"] == previous, f"{path} does not follow"
        assert (entry["source"]["topic"], entry["source"]["partition"]) == (topic, partition), path
        assert entry["source"]["lineage"] == 1, f"{path}: one topic, one lineage"
        previous = hashlib.sha256(raw).hexdigest()
        entries.append(entry)
    return entries


def account(partition, entries):
    """The laws that a reader can check: epochs rise by opens alone, spans touch, the totals add up."""
    epoch, resume = 0, entries[0]["source"]["first"]
    records = missing = gaps = 0
    for entry in entries:
        if entry["kind"] == "open":
            epoch += 1
        assert entry["epoch"] == epoch, (partition, entry["seq"])
        spans = [(file["span_from"], file["span_to"]) for file in entry["files"]]
        spans += [(gap["from"], gap["to"]) for gap in entry["gaps"]]
        for gap in entry["gaps"]:
            lost = gap["reason"] == "log_start_moved"
            assert not lost or gap["to"] < entry["log"]["start_offset"], (partition, entry["seq"], gap)
        for span_from, span_to in sorted(spans):
            assert span_from == resume, f"partition {partition}, entry {entry['seq']}: {span_from} follows {resume}"
            resume = span_to + 1
        assert entry["resume_offset"] == resume and not entry.get("ahead"), (partition, entry["seq"])
        records += sum(file["records"] for file in entry["files"])
        missing += sum(entry["missing"].values()) + sum(sum(file["missing"].values()) for file in entry["files"])
        gaps += sum(gap["to"] - gap["from"] + 1 for gap in entry["gaps"])
        totals = entry["totals"]
        assert (totals["records"], totals["missing"], totals["gaps"]) == (records, missing, gaps), (partition, totals)
    assert records + missing + gaps == resume - entries[0]["source"]["first"], partition
    return epoch


def rows(file):
    """Offsets and numbers of a file, which must be what its entry says."""
    raw = read(file["path"])
    assert len(raw) == file["stored_bytes"], file["path"]
    assert hashlib.sha256(raw).hexdigest() == file["sha256"], f"{file['path']} is another file"
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw), columns=["topic", "partition", "offset", "value"])
    offsets = table["offset"].to_pylist()
    assert len(offsets) == file["records"] and offsets == sorted(set(offsets)), file["path"]
    assert (offsets[0], offsets[-1]) == (file["first_offset"], file["last_offset"]), file["path"]
    assert set(table["topic"].to_pylist()) == {topic}, file["path"]
    partition = int(re.search(r"/partition=(\d+)/", file["path"])[1])
    assert set(table["partition"].to_pylist()) == {partition}, file["path"]
    return zip(offsets, (int(value.as_py()[:20].split(b" ", 1)[0]) for value in table["value"]))


seen, summary = collections.Counter(), collections.Counter()
for folder in names(f"{topic}/_manifests"):
    partition = int(folder.removeprefix("partition="))
    entries = chain(partition)
    summary["partitions"] += 1
    summary["entries"] += len(entries)
    summary["epochs"] += account(partition, entries)
    files = [file for entry in entries for file in entry["files"]]
    named = {file["path"] for file in files}
    assert len(named) == len(files), f"partition {partition}: a file is named twice"
    lies = {f"{topic}/partition={partition}/{name}" for name in names(f"{topic}/partition={partition}")}
    assert named <= lies, f"partition {partition}: {sorted(named - lies)} are named and not there"
    summary["files"] += len(named)
    summary["unnamed"] += len(lies - named)
    all_rows = [row for file in files for row in rows(file)]
    assert len({offset for offset, _ in all_rows}) == len(all_rows), f"partition {partition}: an offset is there twice"
    ascending = [number for _, number in sorted(all_rows)]
    assert ascending == sorted(ascending), f"partition {partition}: not in the order of the log"
    seen.update(ascending)

lost = [number for number in range(count) if number not in seen]
twice = [number for number, times in seen.items() if times > 1]
foreign = [number for number in seen if number >= count]
assert not (lost or twice or foreign), {
    "lost": (len(lost), lost[:5]), "twice": (len(twice), twice[:5]), "foreign": (len(foreign), foreign[:5])}
summary["records"] = sum(seen.values())
print(json.dumps(summary), flush=True)
# Without the interpreter's end, at which a thread of the library may still run and bring the process down.
os._exit(0)
