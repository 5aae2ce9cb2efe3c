"""What a plugin may be: hookspecs, one interface file per kind, and how plugins are loaded."""
