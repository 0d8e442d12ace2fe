"""The command line of upsertq: the only place that reads the environment; needs the extra `cli`."""
