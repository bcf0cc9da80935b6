"""Cameras and scenes without cameras: recorded or synthetic traffic, published to a real MQTT broker at its own pace.

`Replay` publishes any `Traffic`: a `Recording`, `CameraTraffic`, `SceneTraffic`, or several as `Mixed`. It survives a
broker that is killed and comes back, and knows when each camera message was published, for latency measurements.
`python -m clients.replay --help` does the same by hand.
"""

from clients.replay.evidence import Evidence
from clients.replay.player import Progress, Replay
from clients.replay.publisher import Publisher
from clients.replay.recording import Recording
from clients.replay.scenes import SceneTraffic
from clients.replay.synthetic import CameraTraffic, People, Track
from clients.replay.traffic import Message, Mixed, Traffic

__all__ = [
    "CameraTraffic",
    "Evidence",
    "Message",
    "Mixed",
    "People",
    "Progress",
    "Publisher",
    "Recording",
    "Replay",
    "SceneTraffic",
    "Track",
    "Traffic",
]
