"""The commands that the worker adds to `upsertq`."""
