# Counts the records of each listener in Avro container files, with fastavro: nothing of Penstock's
# own code reads here.
#
#   count.py LISTENER... -- FILE...
#
# fastavro reads and decompresses each block and says how many records it holds. Decoding all of
# them in Python would take minutes, so a block's listeners are counted by their encoding (length,
# then name) in the decompressed bytes. Where these counts do not add up to the block's number of
# records, the block is decoded record by record. So are the first records of every file.
import collections
import json
import multiprocessing
import os
import sys
import time

import fastavro

# Per file; about a fifth of a second.
DECODED_AT_LEAST = 50_000


def encoded(name):
    # Avro: a string is its length in bytes, zigzag and varint (one byte below 64), and its bytes.
    text = name.encode()
    assert len(text) < 64
    return bytes([2 * len(text)]) + text


def count(task):
    path, listeners = task
    patterns = {name: encoded(name) for name in listeners}
    counts = collections.Counter()
    records = decoded = 0
    with open(path, "rb") as file:
        for block in fastavro.block_reader(file):
            records += block.num_records
            found = None
            if decoded >= DECODED_AT_LEAST:
                found = guess(block, patterns)
            if found is None:
                found = collections.Counter(record["listener"] for record in block)
                decoded += block.num_records
                if sum(found.values()) != block.num_records:
                    sys.exit(f"{path}: a block announces {block.num_records} records and holds {sum(found.values())}")
            counts.update(found)
            # The next block is most likely of the same listener: look for it first.
            patterns = dict(sorted(patterns.items(), key=lambda item: -found[item[0]]))
    return path, counts, records, decoded


def guess(block, patterns):
    data = block.bytes_.getvalue()
    found = collections.Counter()
    left = block.num_records
    for name, pattern in patterns.items():
        found[name] = data.count(pattern)
        left -= found[name]
        if left == 0:
            return found
    return None


def main():
    split = sys.argv.index("--")
    listeners, paths = sys.argv[1:split], sys.argv[split + 1 :]
    counts = collections.Counter()
    records = decoded = 0
    told = time.monotonic()
    with multiprocessing.Pool() as pool:
        tasks = [(path, listeners) for path in paths]
        for done, result in enumerate(pool.imap_unordered(count, tasks), 1):
            counts.update(result[1])
            records += result[2]
            decoded += result[3]
            if time.monotonic() - told > 2:
                told = time.monotonic()
                print(f"  {done} of {len(paths)} files, {records:,} records", file=sys.stderr, flush=True)
    result = {
        "listeners": counts,
        "records": records,
        "decoded": decoded,
        "bytes": sum(os.path.getsize(path) for path in paths),
    }
    print(json.dumps(result))


main()
