"""Spaces: parts of the memory that only some callers read and write, each in a database of its own.

`shared` is everybody's, and the agent's own database. Each identity has a private one, and the configuration declares
others with their readers and writers. Nothing of one space can show in another, since no statement reads two databases:
not in a search, its scores and suggestions, nor in counts, ids, histories, and audits.
"""
