import sys
from pathlib import Path

# The helpers beside the host's tests are imported by name, from here and from the system tests.
sys.path.insert(0, str(Path(__file__).parent / "host"))
# So are those that several kinds of tests share, from beside this file.
sys.path.insert(0, str(Path(__file__).parent))
