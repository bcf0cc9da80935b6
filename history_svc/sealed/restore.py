"""Brings a book up to what sealed segments hold."""

from __future__ import annotations

from collections.abc import Iterable

from history_svc.book import Book
from history_svc.sealed import tables
from history_svc.sealed.faces import SealedFaces


def restore(book: Book, segments: Iterable[SealedFaces]) -> None:
    """Adds what the segments hold, which are in the order of time they were sealed."""
    for segment in segments:
        for appearance in tables.decode_appearances(segment.appearance_file.view()):
            book.put(appearance)  # of one that is in several segments the last state stays
        table = segment.table
        times = table.times.tolist()
        for detection, owner, time_ns in zip(table.ids("detection"), table.ids("appearance"), times, strict=True):
            kept = book.get(owner)
            if kept is not None:
                book.put_detections(kept, [(detection, time_ns)])
        for link in tables.decode_frames(segment.frame_file.view()):
            book.put_frame(link.frame, link.appearances)
        segment.trim()
