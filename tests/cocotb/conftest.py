import sys
from pathlib import Path

# The runner and the stream drivers beside the tests are imported by name.
sys.path.insert(0, str(Path(__file__).parent))
