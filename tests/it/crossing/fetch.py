"""Copies every file that a topic's manifests name out of HDFS, through WebHDFS.

usage: fetch.py WEBHDFS TOPICS_DIR TOPIC FOLDER
"""
import json
import os
import sys

import requests

webhdfs, topics_dir, topic, folder = sys.argv[1:]


def read(path):
    answer = requests.get(f"{webhdfs}{path}", params={"op": "OPEN"}, timeout=60)
    answer.raise_for_status()
    return answer.content


def names(path):
    answer = requests.get(f"{webhdfs}{path}", params={"op": "LISTSTATUS"}, timeout=60)
    answer.raise_for_status()
    return [status["pathSuffix"] for status in answer.json()["FileStatuses"]["FileStatus"]]


chains = f"{topics_dir}/{topic}/_manifests"
for partition in names(chains):
    for entry in names(f"{chains}/{partition}"):
        if entry.startswith("."):
            continue
        for file in json.loads(read(f"{chains}/{partition}/{entry}"))["files"]:
            target = os.path.join(folder, file["path"].replace("/", "_"))
            with open(target, "wb") as copy:
                copy.write(read(f"{topics_dir}/{file['path']}"))
            print(target)
