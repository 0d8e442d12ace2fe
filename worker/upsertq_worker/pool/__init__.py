"""How the workers of one queue share its shards."""
