"""Hand three files to the rq workers, wait until their runs have landed, and print the receipts.

This is what a task of Airflow (or of any other scheduler) does; the files never pass through it:

    python examples/three_ingests.py articles /data/a.parquet /data/b.parquet /data/c.parquet

RQ_REDIS_URL names the server. The workers are `rq worker-pool -w upsertq_worker.jobs.Worker -n 4 upsertq`, on machines
that have the files; a worker of upsertq (or drain jobs) lands the records.
"""

import json
import os
import sys
import time
from pathlib import Path

from redis import Redis

from upsertq import Producer
from upsertq_worker.jobs import Queue, ingest

OVER = {"finished", "failed", "stopped", "canceled"}
TIMEOUT = 3600.0


def main(queue: str, *files: str) -> int:
    """Ingest the files as runs of their own; returns the exit code: 3 where records were rejected or are dead."""
    url = os.environ.get("RQ_REDIS_URL", "redis://localhost:6379/0")
    jobs = Queue(connection=Redis.from_url(url))
    today = time.strftime("%Y%m%d-%H%M%S")
    runs = {f"{Path(file).stem}-{today}": file for file in files}
    handed = {run: jobs.enqueue(ingest, [str(Path(file).resolve())], queue, run) for run, file in runs.items()}
    while any(job.get_status().value not in OVER for job in handed.values()):
        time.sleep(0.5)
    codes = []
    with Producer(queue, url=url) as producer:
        for run, job in handed.items():
            receipt = job.return_value()
            if receipt is None:
                sys.stderr.write(f"{run}: {job.get_meta().get('error', 'the job ended without a receipt')}\n")
                codes.append(1)
                continue
            producer.wait(run, timeout=TIMEOUT)
            landed = producer.receipt(run)
            print(json.dumps(landed.as_dict()))
            codes.append(3 if receipt["rejected"] or landed.books.dead else 0)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
