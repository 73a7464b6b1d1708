"""The only place where adapters meet use cases: ``services`` for what runs, ``verbs`` for the CLI.

Importing this package loads nothing; ``verbs`` loads what one verb needs when it is asked for it.
"""
