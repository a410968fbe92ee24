"""What the models share that say who is speaking and in which language: features, layers, tasks.

Nothing is imported here; the models under ``mlx_audio/spk`` and ``mlx_audio/lid`` import what they need.
"""
