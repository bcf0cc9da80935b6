"""Who is in which zone: entry, exit, dwell and occupancy, from a scene controller's updates. A server of its own.

`tracker` holds the rules (plain code, no I/O), `store` keeps scenes, visits and their event log in Redis, `recorder`
joins the two, `query` reads, `service` translates the contract.
"""
