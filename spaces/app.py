"""The studio as a Hugging Face Space starts it: open to everybody, on the port that the Space shows."""

import os
from pathlib import Path

from dreamfusion.studio.serve import serve

if __name__ == "__main__":
    serve(
        Path(os.environ.get("RUNS", "runs")),
        host="0.0.0.0",
        port=int(os.environ.get("PORT", "7860")),
        models=os.environ.get("MODELS", "").split(),
        browser=False,
        public=True,
    )
