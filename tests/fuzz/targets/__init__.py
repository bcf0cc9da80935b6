"""One module for each target; `WEIGHTS` says how the time is shared."""

WEIGHTS = {
    "camera": 3,
    "scene": 2,
    "frame": 1,
    "images": 3,
    "embeddings": 1,
    "tokens": 1,
    "embed": 2,
    "match": 3,
    "history": 3,
    "region": 2,
    "alert": 3,
    "ingest": 1,
    "audit": 2,
}
