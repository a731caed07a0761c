"""A module a command: `add` describes its options and what carries it out."""
