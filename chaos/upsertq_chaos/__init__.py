"""A run of real processes under faults and kills, and the verdict on it; it must never touch a queue of the user."""
