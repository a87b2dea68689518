"""What the scripts beside this folder share: devices, cells, checks, tables.

Importing it makes the library importable from the folder that holds it, installed or not.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [folder for folder in (str(_ROOT), str(_ROOT / "kernels")) if folder not in sys.path]
