"""Ratios against peers, measured in one run, with equality checked in the same run."""
