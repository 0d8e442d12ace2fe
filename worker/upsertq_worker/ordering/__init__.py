"""Decides which version of a record may be sent, and which entry may be settled. Pure."""
