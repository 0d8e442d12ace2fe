"""Decides how fast to send, and whether: backoff, limits, pauses, outages. Pure."""
