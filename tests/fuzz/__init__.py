"""Fuzzing: what cameras, photos and clients send is mutated towards ever new paths through the code that reads it.

`python -m tests.fuzz` (or `make fuzz`) runs all targets, two at a time, and fails on any finding. A target is a module
of `tests.fuzz.targets` with a `make()` that gives a `Target`: a function of bytes that raises when an invariant does
not hold, and seeds to start from. Corpus and findings are kept in build/fuzz.
"""
