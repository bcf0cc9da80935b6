"""Sealed segments: what the log held, in immutable files that are searched where they lie.

    segments/<first log>-<last log>/
        manifest.json     what is in it, and size and checksums of every other file
        faces.faiss       RaBitQ codes of the faces, 1 bit a dimension after a random rotation
        vectors.f16       the faces' vectors, little-endian float16, row by row
        rows.arrow        every detection; those with a vector come first, in the order of `vectors.f16`
        keys.arrow        64 bits of each detection's id, sorted, and where its row is: is a detection stored already?
        appearances.arrow the state of each appearance that the log files touched, as it was at their end
        frames.arrow      the evidence frames and what they show

A directory is written aside, made durable and renamed; a name without a suffix is therefore whole. Of an appearance
that is in several segments the latest has the whole of it.
"""
