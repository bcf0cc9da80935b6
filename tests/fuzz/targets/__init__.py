"""One module for each target; `WEIGHTS` says how the time is shared, `RATES` what a target does in it."""

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

RATES = {
    "camera": 400,
    "scene": 1500,
    "frame": 25,
    "images": 140,
    "embeddings": 500,
    "tokens": 5000,
    "embed": 8,
    "match": 60,
    "history": 60,
    "region": 75,
    "alert": 80,
    "ingest": 30,
    "audit": 30,
}
"""Executions a second that any machine of two cores manages: with a seed, a target ends after so many."""
