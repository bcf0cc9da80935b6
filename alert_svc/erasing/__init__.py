"""Erases what alerts keep of a person.

`traces` finds and erases it (`mesh.traces.Keeper`), `rewriting` makes the log anew without it, `naming` does so with
rules and filters, and `tombstones` sees to it that a match that was under way raises nothing.
"""
