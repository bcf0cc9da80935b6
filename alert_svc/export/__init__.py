"""Makes case files of alerts: a zip with the alert, what happened to it, its pictures and a manifest.

`exporter` gathers what there is, `records` remembers with the alert who exported it and what for, `history` reads what
happened to the alert from the log, and `archive` writes the zip.
"""
