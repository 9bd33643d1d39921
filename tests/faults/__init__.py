"""Faults on purpose: kills, signals, full and read-only disks, damaged files, bad numbers and malformed input.

``python -m tests.faults --minutes 30`` runs cases at random until the time is up and prints what became of them. A case
is a process forked from one that has everything imported, so that thousands are affordable. Case n of a kind follows
from ``--seed`` and n alone; ``--only kills:17`` runs one again and shows what it wrote.
"""
