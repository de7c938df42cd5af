"""``spark-modelctl doctor``: looks at the machine around the daemon and says what to mend, and how.

``look_*`` gather facts, each within a bound and beside the others; ``judge_*`` are pure functions from facts to
findings. Only ``command`` is loaded with the program.
"""
