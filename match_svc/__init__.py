"""Match service: the registry of persons of interest, and the comparison of faces with the gallery of their references.

The registry and its log are in Redis (`registry`, `log`); every replica follows the log (`follower`) and holds the
gallery in memory, so that a match costs no network: `builder` makes immutable snapshots (`gallery`) of persons
(`people`) and rows, which `index` compares exactly and, from a size that `crossover` measures, `quantised` by codes
first; `folding` brings new rows into that. `replicas` knows what every replica has, `removals` waits for it. `matching`
compares the pooled faces of `tracks` with references and their means (`templates`), `decisions` remembers whom a track
was recognised as, `enrolment` and `profiles` make and change persons. What is a match is said by `policy`, made of the
store's settings, its `watchlists` with their `hours`, the number of persons and the model's `calibration`; `limits`
keeps of it what a search needs to know. `service` and `watchlist_service` translate all that to gRPC.
"""

import os

# OpenBLAS reads it once, when numpy is loaded. Searches run in threads of our own: with two BLAS threads each, they
# fight for the same cores and lose (measured 4x).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
