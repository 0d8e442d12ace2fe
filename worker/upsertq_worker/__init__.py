"""The draining side of upsertq: leases shards, batches records and lands them in a vector index."""
