"""Configs for the user's own data: ``eca-mmdet init`` and ``train --data``.

``inputs`` finds and reads the files, ``statistics`` counts, ``scale``, ``anchors``
and ``schedule`` propose, ``base`` reads the config to inherit, ``start`` the checkpoint
to start from, ``sections`` composes the entries, ``text`` writes them, and ``plan``
puts them together.
"""
