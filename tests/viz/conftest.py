import sys
from pathlib import Path

# The tests share a gallery of all pictures, which lies beside them.
sys.path.insert(0, str(Path(__file__).parent))
