"""The type of what commands are added to; argparse has no public name for it."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'
