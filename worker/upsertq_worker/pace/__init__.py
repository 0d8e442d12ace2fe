"""Decides at which pace the workers of a queue together send to each lane, and carries the slots from the server."""
