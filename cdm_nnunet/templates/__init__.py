"""Clinical templates that ship with the package (JSON)."""
