"""What production was asked and what it answered: on the disk before the answer is sent, later in the store.

entry -> segments (this machine, fsynced by groups) -> shipping (the record store, each once)
"""

from flywheel.serving.traffic.entry import TrafficEntry, traffic_scope
from flywheel.serving.traffic.segments import Segments
from flywheel.serving.traffic.shipping import ship

__all__ = ["Segments", "TrafficEntry", "ship", "traffic_scope"]
