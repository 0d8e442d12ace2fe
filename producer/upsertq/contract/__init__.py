"""What producer and worker share: records, entries, keys, books, scripts, errors, the conversation with the server."""
