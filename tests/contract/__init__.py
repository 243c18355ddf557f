"""What users rely on: commands, files, names. Recorded once, compared ever after.

The tests reach the package only by public ways in. ``python -m tests.contract.record``
records everything again after an intended change; review the difference with git.
"""
