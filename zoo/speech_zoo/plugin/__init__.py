"""mlx_audio's own entry points load the models of mlx-speech-zoo."""
