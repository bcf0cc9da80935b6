"""Delivers alerts to targets outside of the mesh: webhooks, MQTT topics, WebSocket clients, the log.

A target is a durable cursor on its store's alert log. One `worker` at a time, whichever server's it is, holds the
target's `lease`, follows the log from the cursor, hands each event to a `sender` until that succeeds or is given up,
and moves the cursor (all in `store`). `manager` runs the workers of the targets that there are; `targets` holds the
rules of the resource; `service` translates.
"""
