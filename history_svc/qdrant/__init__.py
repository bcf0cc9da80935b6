"""A history in Qdrant, a vector database, and an object store: nothing of it is in a process, which may come and go.

Two collections per embedding model, shared by any number of stores, which `store` in the payload keeps apart:

    poi-detections-<model>      a point per detection; one with a face has its vector
    poi-records-<model>         points without a vector, told apart by `kind`:
        track                   an object id on a camera: the appearances that may still change. What is decided is
                                decided here, by a write that happens only where nobody else wrote meanwhile
        appearance              one appearance, written after its track, and never over a newer one
        frame, erasure          an evidence frame without its image; what was erased, or is being erased
        erased                  in place of an appearance that was erased, so that nobody writes it again

A batch is one write to its tracks, one to its appearances, one to its detections, in this order. A track names what
its last writers were about to write (`pending`), so whoever comes next, or the same batch sent again, completes what a
crash cut off, and counts nothing twice.
"""
