"""Search and appends of a history that holds millions of faces, beside exact scans: `python -m bench.history`.

`data` makes the faces, `segments` writes them as history keeps them, `exact` scans them for the truth and for the
baselines, `searches` is the client that looks for people, `appends` the process that adds detections meanwhile,
`measure` asks the server, `report` says what came out beside what was aimed at.
"""
