"""Faults outside of tvlens: kills, full disks, damaged files, bad command lines."""
