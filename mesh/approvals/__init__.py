"""Four eyes, where a store wants that: enrolments and erasures wait for a second person.

`interceptor` stops a request that nobody has approved and keeps it, sealed (`store`); `service` lets a second person
decide. Who asked then sends the very same request again: so a server that enrols or erases never acts for somebody who
is not there, and needs nothing of the approver. Served by `python -m mesh.audit`, beside the records of what was done.
"""
