"""What a run takes, by arithmetic alone: bytes of training, of exams and of what is kept.

Pure functions of sizes; nothing here loads weights or asks a device for more than how much memory it has.
`python -m limbeck.scale` prints the tables of docs/scale.md.
"""
