"""The whole mesh: real servers, a real broker and a real Redis, killed and refused and looked at from outside."""
