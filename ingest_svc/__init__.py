"""Takes the messages of cameras and scene controllers from MQTT and hands them to the mesh.

A message is acknowledged to the broker only after history has its detections on disk, match has compared them and
alert has the alerts: a crash anywhere means that the broker sends it again, and ids that depend only on content make
the second time harmless.
"""
