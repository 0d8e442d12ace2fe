"""What is measured, and under which names; no I/O, so that every figure is tested without a socket."""
