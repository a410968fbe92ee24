"""Export our models into a source tree of mlx-audio: `python -m upstream PATH`. See README.md in this folder."""
