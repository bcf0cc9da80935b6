"""Embedding service: an image goes in, faces come out, with landmarks, quality and embeddings. Stateless.

The vision core (`images`, `runtime`, `alignment`, `quality`, `faces`) is plain objects that know nothing of gRPC;
`service` translates between it and `poi.v1.EmbeddingService`.
"""

import os

# OpenCV reads these once, when it is loaded, so they are set before anything here imports it. The first makes its
# decoders refuse what lies about its size to the check in `images` (it is the most that `max_image_pixels` can be); the
# second silences its complaints about each broken upload, which is answered with an error anyway.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(89_000_000))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
