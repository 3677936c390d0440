"""What the id of an event begins with that kills, hangs or slows the worker which has loaded tests/killers.py.

Apart from it, for whoever imports that one is haunted too.
"""

DEADLY = "killer"
STUCK = "sleeper"
BUGGY = "buggy"
GREEDY = "greedy"
SLOW = "slow"
PACE = 0.35  # seconds for each slow event
