"""Time two implementations in turn and print how they compare."""

import resource
import statistics
import time
from collections.abc import Callable


def compare(ours: Callable, peer: Callable, *, rounds: int = 3) -> tuple[object, object]:
    """Run both in turn after a warm-up each; print medians and the ratio; return their results."""
    results = ours(), peer()
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for name, way in (("ours", ours), ("peer", peer)):
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ours_s, peer_s = (statistics.median(seconds[name]) for name in ("ours", "peer"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  ours {ours_s:8.2f} s   peer {peer_s:8.2f} s   peer/ours {peer_s / ours_s:6.1f}")
    print(f"  peak memory of the process {memory:.0f} MB")
    return results
