"""Protocols: claims are written down first, then problems, mentors and students are drawn, then it is judged.

settings.py   the `claims:` part of a recipe
written.py    the protocol file, and the runs that it consists of
workers.py    the runs as processes of one thread, side by side; worker.py is one of them
judging.py    differences, intervals and verdicts over problem draws, mentors and students
compute.py    what a contestant cost to make
table.py      what is printed
"""
