# Counts how often each numbered line stands in Avro container files, with fastavro: nothing of
# Penstock's own code reads here.
#
#   crash.py LINES FOLDER
import json
import os
import sys

import fastavro


def main():
    counts = bytearray(int(sys.argv[1]))
    folder = sys.argv[2]
    records = 0
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".avro"):
            sys.exit(f"{name}: not a sealed file")
        with open(os.path.join(folder, name), "rb") as file:
            for record in fastavro.reader(file):
                number = int(record["body"].split(" ", 2)[1])
                counts[number] = min(255, counts[number] + 1)
                records += 1
    result = {
        "records": records,
        "lines": len(counts) - counts.count(0),
        "twice": len(counts) - counts.count(0) - counts.count(1),
    }
    print(json.dumps(result))


main()
