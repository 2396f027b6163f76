"""Training: examples to batches, named loss parts to one loss, checkpoints that survive a kill.

Importing this package or `training.settings` loads no torch; the other modules do.
"""
