"""Keeps the alerts of a store in a durable log and streams them to clients. Run it as `python -m alert_svc`.

`alerts` says which alert a match raises, `triage` what people may do about it and `escalation` what makes it more
urgent, by a store's `policy`. `log` keeps them in Redis (`keys` says where) with the Lua of `scripts`, `sweep` does
what is due when nobody does anything, `feedback` keeps what people say of matches, `stream` turns the log into what a
client of StreamAlerts sees, `summary` sums up a shift, and `service` translates. `evidence` makes the pictures of
alerts, `export` makes case files, and `delivery` tells targets outside. Any number of servers may share one Redis.
"""
