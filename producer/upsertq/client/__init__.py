"""What a program that enqueues uses: producers, loads, packing, back-pressure, waits, receipts."""
