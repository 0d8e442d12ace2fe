"""Takes a batch from its records to an applied outcome. Only `sender` waits."""
