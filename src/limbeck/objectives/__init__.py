"""Losses as pure torch functions; alignment (the shift and the mask) in `align` only.

Importing this package loads nothing; its modules import torch and nothing of Limbeck.
"""
