"""Turn the wall clock of a Python process that has this folder in PYTHONPATH: by TURNED_S seconds, from its start."""

import os
import time

_real, _turned_s = time.time, float(os.environ["TURNED_S"])
time.time = lambda: _real() + _turned_s
