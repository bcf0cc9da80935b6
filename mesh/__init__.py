"""What every server of the mesh stands on: one way to read settings, serve, fail, connect and be watched.

A service imports this room and the generated contracts (`poi.v1`), never another service. Start with
`mesh.settings.load`, `mesh.server.Server` and `mesh.server.run`; raise from `mesh.errors`; reach other services
through `mesh.channels.connect`.
"""
