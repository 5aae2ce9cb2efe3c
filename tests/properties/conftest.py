import sys
from pathlib import Path

# The import mode leaves sys.path alone, and these tests share one module.
sys.path.insert(0, str(Path(__file__).parent))
