"""What talks to the mesh from outside."""
