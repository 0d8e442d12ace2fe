"""Finds the records that kill workers, after unclean deaths."""
