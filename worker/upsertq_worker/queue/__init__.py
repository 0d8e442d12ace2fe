"""Everything that is said to the queue's server, and the tasks that say it."""
