"""Measures match_svc: faces a second by the gallery's size, one face's latency, enrolment to match, cold start."""
