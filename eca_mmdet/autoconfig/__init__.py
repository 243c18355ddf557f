"""From annotation files to a config that trains: ``eca-mmdet init``.

``source`` finds and reads the files, ``statistics`` counts, ``scale``, ``anchors``
and ``schedule`` propose, ``base`` reads the config to inherit, ``sections`` says what
is new, ``text`` writes it, and ``plan`` puts them together.
"""
