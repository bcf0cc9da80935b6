"""What the embedding server counts, over both ways in."""

from prometheus_client import Counter, Gauge, Histogram

from mesh.telemetry import LATENCY_BUCKETS

IMAGE_SECONDS = Histogram(
    "poi_embed_image_seconds", "Duration of one image from its bytes to its faces.", buckets=LATENCY_BUCKETS
)
FACES = Counter("poi_embed_faces_total", "Faces found.")
REFUSED = Counter("poi_embed_images_refused_total", "Images that could not be used, by reason.", ["reason"])
WAITING = Gauge("poi_embed_waiting_images", "Images that wait for a thread: more than a few means too few servers.")
