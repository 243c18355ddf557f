"""Configs for the user's own data: ``eca-mmdet init`` and ``train --data``.

``inputs`` finds and reads the files, ``base`` reads the config to inherit and the
checkpoint to start from, ``proposals`` counts and proposes settings, ``sections``
writes the entries, and ``plan`` runs it all.
"""
