"""Configs for the user's own data: ``eca-mmdet init`` and ``train --data``.

``inputs`` reads the user's files, the config to inherit and the checkpoint to start
from, ``proposals`` counts and proposes settings, ``sections`` writes the entries, and
``plan`` runs it all.
"""
