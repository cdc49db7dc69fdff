"""One protocol per file, each a coroutine that sees one member's share. ``suite`` puts them together."""
