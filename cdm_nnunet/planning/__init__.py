"""Plans by one protocol, and doses that beams can deliver (``docs/planning.md``). The dose engine is an extra."""
