"""Keeps the alerts of a store in a durable log and streams them to clients. Run it as `python -m alert_svc`.

`alerts` holds the rules (which alert a match raises, what may be done about it), `log` keeps them in Redis, `stream`
turns the log into what a client of StreamAlerts sees, and `service` translates. Any number of servers may share one
Redis.
"""
