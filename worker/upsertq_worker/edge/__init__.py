"""Speaks to the index over HTTP and to the operating system."""
