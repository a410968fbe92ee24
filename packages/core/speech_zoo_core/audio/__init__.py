"""Audio in: decoding, resampling, streaming, and the features that models take."""
