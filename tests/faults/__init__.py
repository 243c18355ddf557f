"""Bad files into every command that reads files: each is refused, or survived.

``cases`` says what a case is, ``corruption`` and ``pickles`` make broken content,
``originals`` writes the sound files, ``server`` runs a command in a process of its own
and ``judge`` decides. ``found`` keeps what once went wrong.
"""
