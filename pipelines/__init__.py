"""The pipeline: one file a stage, chained in `full.py`."""

VERSION = "0.5.0"  # part of every artifact's fingerprint
