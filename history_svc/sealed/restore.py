"""Brings a book up to what sealed segments hold."""

from __future__ import annotations

from collections.abc import Iterable

from history_svc.book import Book
from history_svc.sealed import tables
from history_svc.sealed.faces import SealedFaces


def restore(book: Book, segments: Iterable[SealedFaces]) -> None:
    """Adds the appearances and frames of segments, which are in the order that they were sealed in."""
    for segment in segments:
        for appearance in tables.decode_appearances(segment.appearance_file.view()):
            book.put(appearance)  # of one that is in several segments the last state stays
        for link in tables.decode_frames(segment.frame_file.view()):
            book.put_frame(link.frame, link.appearances)
        segment.appearance_file.trim()
        segment.frame_file.trim()
