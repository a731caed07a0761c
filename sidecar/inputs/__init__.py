"""All that a generation is made of: the index from a store, and this machine's own profile and files."""
